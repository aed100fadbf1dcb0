"""What a model asks of its head, and the residual MLP that more than one head is made of.

Dimensions: B clips, K positions that are predicted together, D width of hidden, P numbers a patch, V width of the head.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impact_pl.models.transformer import LAYER_NORM_EPS
from impact_pl.randomness import Generators


@dataclass(frozen=True)
class Sampling:
    """How patches are drawn.

    A head without diffusion has no use for ``num_diffusion_steps``, ``min_alpha_bar`` and ``solver``, one without
    randomness none for ``temperature``.
    """

    guidance_scale: float | Tensor = 1.0  # 1: no guidance; (B, 1, 1): each clip its own (a head's own ``sample`` only)
    num_diffusion_steps: int = 100
    temperature: float = 1.0
    min_alpha_bar: float = 0.0  # sampling starts where this share of signal is left
    solver: str = "ancestral"  # of SOLVERS

    @property
    def num_noises(self) -> int:
        """Steps that add noise: all but the last, or none, and x_T alone decides."""
        return 0 if self.solver == "ddim" else self.num_diffusion_steps - 1

    @property
    def start_std(self) -> float:
        """Of x_T: the temperature, where it has no other noise to scale (MAR leaves x_T as it is)."""
        return self.temperature if self.solver == "ddim" else 1.0


class Sampler(Protocol):
    """What decoding asks of a head, or of what stands in for it: :meth:`Head.sample`."""

    def sample(
        self, hidden: Tensor, null_hidden: Tensor | None, sampling: Sampling, generator: Generators
    ) -> Tensor: ...


class LearnsFromData(Protocol):
    """What training asks of a head without a ``teacher``."""

    def loss(
        self, hidden: Tensor, target: Tensor, generator: torch.Generator, batch_mul: int = 1
    ) -> tuple[Tensor, Tensor | None]:
        """Losses (R, K), and the diffusion timesteps (R, K) that they belong to; None for a head without diffusion.

        Args:
            hidden: (B, K, D) at masked positions only.
            target: (B, K, P) their true patches.
            generator: of all randomness.
            batch_mul: draws a position, R = B * batch_mul where each has its own loss; R = B where there is one loss a
                position, of all draws together or without any.
        """


class Head(nn.Module, ABC):
    """From hidden vectors (B, K, D) to the patches (B, K, P) at their positions.

    Attributes:
        confidence: how sure the head is at a position, for ``order=confidence``: by the spread of several ``draws``, by
            the ``log_probability`` of one (then :meth:`propose` gives both), or ``none``.
        blocks: the repeated part, which sharding gathers block by block.
        teacher: name of the head whose trained weights start this one (but for ``own_weights``), and whose paths it
            learns; None: it learns from data.
        own_weights: first parts of the names that a teacher's weights cannot give.
        takes_solver: ``Sampling.solver`` may be another one than ``ancestral``.
        num_fit_patches: patches of the training set that :meth:`fit` wants to see before the first step; 0: none.
    """

    confidence: Literal["draws", "log_probability", "none"] = "draws"
    blocks: nn.ModuleList
    teacher: str | None = None
    own_weights: tuple[str, ...] = ()
    takes_solver: bool = False
    num_fit_patches: int = 0

    @abstractmethod
    def sample(self, hidden: Tensor, null_hidden: Tensor | None, sampling: Sampling, generator: Generators) -> Tensor:
        """Patches (B, K, P) for hidden (B, K, D).

        ``null_hidden`` (B, K, D) is that of the null condition, for guidance; None costs no second pass.
        """

    def num_passes(self, num_diffusion_steps: int) -> int:
        """Passes through the head that wait for each other in one :meth:`sample`."""
        return 1

    def propose(
        self, hidden: Tensor, null_hidden: Tensor | None, sampling: Sampling, generator: Generators
    ) -> tuple[Tensor, Tensor]:
        """Drawn patches (B, K, P) and their log probabilities (B, K), in nats; where ``confidence`` says so."""
        raise NotImplementedError

    def visible(self, patches: Tensor) -> Tensor:
        """Patches (B, N, P) as the encoder is to see them in training: as this head would have drawn them."""
        return patches

    def fit(self, patches: Tensor, generator: torch.Generator) -> None:
        """Take from patches (M, P), M >= ``num_fit_patches`` if there are as many, what is not learned by gradients."""


class ResidualBlock(nn.Module):
    """The residual MLP of MAR's head (arXiv 2406.11838, appendix) without the modulation, for want of a timestep."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., V) -> (..., V)."""
        return x + self.fc2(F.silu(self.fc1(self.norm(x))))


def guided(both: Tensor, guidance_scale: float | Tensor) -> Tensor:
    """Away from what the null condition would give: u + beta (c - u) (S1 Sec. 3.2; arXiv 2207.12598).

    ``both`` (2B, ...) are the answers c, then u; the result is (B, ...).
    """
    conditional, null = both.chunk(2)
    return null + guidance_scale * (conditional - null)
