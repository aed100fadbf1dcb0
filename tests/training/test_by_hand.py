"""Scripts of Lightning users: their own Trainer, their own module, their own head. None of our callbacks is there."""

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from impact_pl.config import ModelConfig
from impact_pl.data.datamodule import LatentDataModule
from impact_pl.models.latent_encoder import LatentEncoder
from impact_pl.training.modules import TextConditionalTraining, UnconditionalPretraining


def make_trainer(folder, **settings) -> Trainer:
    return Trainer(
        default_root_dir=folder, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, **settings
    )


def test_our_modules_in_a_trainer_of_ones_own(random_latents, tmp_path, config):
    callbacks = [
        ModelCheckpoint(monitor="valid/loss", save_last=True),
        EarlyStopping(monitor="valid/loss"),
        LearningRateMonitor(),
    ]
    data = LatentDataModule(random_latents, batch_size=4)
    module = TextConditionalTraining.from_config(config, data)
    settings = {"val_check_interval": 2, "check_val_every_n_epoch": None, "log_every_n_steps": 1}
    logger = CSVLogger(tmp_path / "logs")
    trainer = make_trainer(tmp_path, max_steps=4, callbacks=callbacks, logger=logger, **settings)
    trainer.fit(module, data)
    assert trainer.global_step == 4
    assert {"train/loss", "valid/loss", "train/total_grad_norm"} <= trainer.callback_metrics.keys()
    header = (tmp_path / "logs" / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/loss", "valid/loss", "train/total_grad_norm", "step"} <= set(header)
    assert any(name.startswith("lr-AdamW") for name in header)
    again = make_trainer(tmp_path, max_steps=6, logger=False)
    again.fit(
        TextConditionalTraining.from_config(config, data),
        data,
        ckpt_path=callbacks[0].last_model_path,
        weights_only=True,
    )
    assert again.global_step == 6


def test_five_lines(random_latents, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = LatentDataModule(random_latents, batch_size=2, with_text=False)
    module = UnconditionalPretraining.from_config(small(), data)
    Trainer(max_steps=2, accelerator="cpu").fit(module, data)


def small():
    from impact_pl.config import TrainConfig

    return TrainConfig(model=ModelConfig(dim=16, depth=1, num_heads=2, max_patches=8, head_width=16, head_depth=1))


class Mine(LightningModule):
    """A user's own head on our encoder: the masked patches are predicted directly."""

    def __init__(self, channels: int, dim: int = 16):
        super().__init__()
        self.encoder = LatentEncoder(ModelConfig(dim=dim, depth=1, num_heads=2, max_patches=8), channels, text_length=0)
        self.head = torch.nn.Linear(dim, channels)

    def training_step(self, batch, batch_idx):
        patches = batch["moments"].chunk(2, dim=1)[0].flatten(2).transpose(1, 2)  # (B, N, P): means, a frame each
        mask = torch.rand(patches.shape[:2]).argsort(dim=1) < 6  # (B, N), six of eight in each row
        loss = (self.head(self.encoder(patches, mask, None)) - patches)[mask].square().mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def test_a_users_own_module_on_our_data_with_our_encoder(random_latents, tmp_path):
    data = LatentDataModule(random_latents, batch_size=4)
    trainer = make_trainer(tmp_path, max_steps=3, logger=False)
    trainer.fit(Mine(channels=data.index.latents["shape"][0]), data)
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
