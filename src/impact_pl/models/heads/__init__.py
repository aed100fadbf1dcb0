"""Registry of heads (``model.head``), which map hidden vectors to patches. The paper's head is ``diffusion``."""

from impact_pl.errors import UserError, shown
from impact_pl.models.heads.attention import AttentionHead
from impact_pl.models.heads.base import Head
from impact_pl.models.heads.consistency import ConsistencyHead
from impact_pl.models.heads.diffusion import DiffusionHead
from impact_pl.models.heads.discrete import DiscreteHead
from impact_pl.models.heads.mse import MseHead

HEADS: dict[str, type[Head]] = {
    "diffusion": DiffusionHead,
    "attention": AttentionHead,
    "mse": MseHead,
    "discrete": DiscreteHead,
    "consistency": ConsistencyHead,
}


def head_class(name: str) -> type[Head]:
    """Look up a head class by its ``model.head`` name.

    Raises:
        UserError: The name is unknown; the message lists the choices.
    """
    if name not in HEADS:
        raise UserError(f"model.head = {shown(name)}: choose {', '.join(HEADS)}.")
    return HEADS[name]


def check_order(name: str, order: str, reveal: str = "cosine", solver: str = "ancestral") -> None:
    """Check that a head can be decoded with these settings of DecodingConfig.

    Raises:
        UserError: The head does not support ``order``, ``reveal`` or ``solver``.
    """
    confidence = head_class(name).confidence
    if solver != "ancestral" and not head_class(name).takes_solver:
        takers = ", ".join(name for name, head in HEADS.items() if head.takes_solver)
        raise UserError(
            f"solver = {solver}, but head {name!r} does not support it (only {takers} do): choose ancestral."
        )
    if order == "confidence" and confidence == "none":
        raise UserError(
            f"order = confidence, but head {name!r} is deterministic and provides no confidence: choose order = random."
        )
    if reveal == "adaptive" and confidence != "draws":
        raise UserError(f"reveal = adaptive, but head {name!r} provides no sample variance: choose cosine.")
