"""Keep the weights of the lowest validation loss, and stop when it no longer falls."""

import math
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer

from impact_pl.models.adapters import save_adapter
from impact_pl.training.checkpoint import save_model
from impact_pl.training.lora import plain_model

ADAPTER = "adapter"  # folder inside the best model's


class KeepBest(Callback):
    """Write the averaged model with the lowest ``valid/loss`` to a folder.

    The training ends after ``patience`` validations without a lower loss. All of its state is in the checkpoints, so a
    resumed training keeps the same model.

    Args:
        folder: Model folder to write.
        patience: Validations without improvement.
    """

    def __init__(self, folder: Path, patience: int):
        self.folder, self.patience = folder, patience
        self.step, self.loss, self.waited = -1, math.inf, 0

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "loss": self.loss, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.step, self.loss, self.waited = (state_dict[key] for key in ("step", "loss", "waited"))

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._stop_if_due(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        loss = float(trainer.callback_metrics["valid/loss"])
        if loss < self.loss:
            self.step, self.loss, self.waited = trainer.global_step, loss, 0
            if trainer.is_global_zero:
                self._save(pl_module)
        else:
            self.waited += 1
        self._stop_if_due(trainer)

    def _save(self, pl_module: Any) -> None:
        averaged, lora = pl_module.ema.model, pl_module.config.lora
        save_model(plain_model(averaged, lora), self.folder)
        if lora.rank:
            save_adapter(averaged.state_dict(), self.folder / ADAPTER, lora.rank, lora.alpha, list(lora.targets))

    def _stop_if_due(self, trainer: Trainer) -> None:
        trainer.should_stop = trainer.should_stop or self.waited >= self.patience
