"""Train low-rank adapters instead of all weights, with ``peft`` (extra ``tune``)."""

from typing import Any

from torch import Tensor, nn

from impact_pl._torchaudio import torchaudio  # noqa: F401  # peft imports transformers, which needs a working one
from impact_pl.config import LoraConfig
from impact_pl.errors import UserError
from impact_pl.models.adapters import BASE, merged_weights
from impact_pl.models.impact import Impact


def add_adapters(model: Impact, config: LoraConfig) -> None:
    """Put adapters next to the linear layers that ``config`` names (in place), and freeze everything else.

    Raises:
        UserError: ``peft`` is not installed, or no layer has such a name.
    """
    try:
        import peft
    except ImportError as error:
        raise UserError(
            "lora.rank needs the package peft: pip install 'impact-pl[tune]', or set lora.rank=0"
        ) from error
    names = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    unknown = sorted(set(config.targets) - names)
    if unknown or not config.targets:
        raise UserError(f"lora.targets={config.targets}: choose among the linear layers {', '.join(sorted(names))}")
    alpha: Any = config.alpha  # peft's annotation says int; any number works
    settings = peft.LoraConfig(r=config.rank, lora_alpha=alpha, target_modules=list(config.targets))
    peft.inject_adapter_in_model(settings, model)


def with_base_names(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename weights of a model without adapters to the names that they have in ``model``."""
    wrapped = {name.partition(BASE)[0] for name, _ in model.named_parameters() if BASE in name}
    renamed = {}
    for name, weight in weights.items():
        layer, _, part = name.rpartition(".")
        renamed[f"{layer}{BASE}{part}" if layer in wrapped else name] = weight
    return renamed


def scale_of(config: LoraConfig | dict[str, Any]) -> float:
    """Compute the factor of B A: alpha / rank."""
    plain = config if isinstance(config, dict) else vars(config)
    return plain["alpha"] / plain["rank"]


def plain_model(model: Impact, config: LoraConfig) -> Impact:
    """Return the model with its adapters added to the weights; itself if it has none."""
    if not config.rank:
        return model
    plain = Impact(model.spec)
    plain.load_state_dict(merged_weights(model.state_dict(), scale_of(config)))
    return plain.eval()
