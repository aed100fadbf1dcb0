"""The head interface, and the residual MLP that several heads share.

Dimension key: B clips, K positions predicted together, D width of hidden, P numbers per patch, V width of the head.
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
    """Sampling parameters of a head.

    Heads without diffusion ignore ``num_diffusion_steps``, ``min_alpha_bar``, ``solver`` and ``max_rms``. Deterministic
    heads ignore ``temperature``.
    """

    guidance_scale: float | Tensor = 1.0  # 1: no guidance; (B, 1, 1): per clip (only in a head's own ``sample``)
    num_diffusion_steps: int = 100
    temperature: float = 1.0
    min_alpha_bar: float = 0.0  # sampling starts where this fraction of signal is left
    solver: str = "ancestral"  # a key of SOLVERS
    max_rms: float = 0.0  # bound on the RMS of a denoised patch in every step; 0: none

    @property
    def num_noises(self) -> int:
        """Number of steps that add noise: all but the last, or 0 for a solver that only depends on x_T."""
        return 0 if self.solver == "ddim" else self.num_diffusion_steps - 1

    @property
    def start_std(self) -> float:
        """Standard deviation of x_T: the temperature if a solver adds no other noise, else 1 (as in MAR)."""
        return self.temperature if self.solver == "ddim" else 1.0


class Sampler(Protocol):
    """What decoding requires of a head or its replacement: :meth:`Head.sample`."""

    def sample(
        self, hidden: Tensor, null_hidden: Tensor | None, sampling: Sampling, generator: Generators
    ) -> Tensor: ...


class LearnsFromData(Protocol):
    """What training requires of a head without a ``teacher``."""

    def loss(
        self, hidden: Tensor, target: Tensor, generator: torch.Generator, batch_mul: int = 1
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the losses (R, K) and their diffusion timesteps (R, K), None for a head without diffusion.

        Args:
            hidden: (B, K, D) at the masked positions.
            target: True patches (B, K, P) at these positions.
            generator: Source of all randomness.
            batch_mul: Draws per position. R = B * batch_mul if each draw has its own loss, R = B if there is one loss
                per position.
        """


class Head(nn.Module, ABC):
    """Base class: maps hidden vectors (B, K, D) to patches (B, K, P) at their positions.

    Attributes:
        confidence: Confidence measure for ``order=confidence``: the spread of several ``draws``, the
            ``log_probability`` of one (:meth:`propose` then returns both), or ``none``.
        blocks: The repeated blocks, which sharding gathers one by one.
        teacher: Name of the head that this one is distilled from: it provides the initial weights (except
            ``own_weights``) and the paths to learn. None: the head learns from data.
        own_weights: Prefixes of parameter names that are not initialised from the teacher.
        takes_solver: Whether ``Sampling.solver`` may be other than ``ancestral``.
        num_fit_patches: Number of training patches that :meth:`fit` needs before the first step; 0: none.
    """

    confidence: Literal["draws", "log_probability", "none"] = "draws"
    blocks: nn.ModuleList
    teacher: str | None = None
    own_weights: tuple[str, ...] = ()
    takes_solver: bool = False
    num_fit_patches: int = 0

    @abstractmethod
    def sample(self, hidden: Tensor, null_hidden: Tensor | None, sampling: Sampling, generator: Generators) -> Tensor:
        """Sample patches (B, K, P) for hidden (B, K, D).

        ``null_hidden`` (B, K, D) comes from the null condition, for guidance. None skips the second pass.
        """

    def num_passes(self, num_diffusion_steps: int) -> int:
        """Count the sequential passes through the head in one :meth:`sample`."""
        return 1

    def propose(
        self, hidden: Tensor, null_hidden: Tensor | None, sampling: Sampling, generator: Generators
    ) -> tuple[Tensor, Tensor]:
        """Sample patches (B, K, P) and return their log probabilities (B, K) in nats, if ``confidence`` says so."""
        raise NotImplementedError

    def visible(self, patches: Tensor) -> Tensor:
        """Convert patches (B, N, P) to what the encoder sees in training: patches as this head would sample them."""
        return patches

    def fit(self, patches: Tensor, generator: torch.Generator) -> None:
        """Fit what gradients do not train on patches (M, P), M >= ``num_fit_patches`` if the data has as many."""


class ResidualBlock(nn.Module):
    """Residual MLP of MAR's head (arXiv 2406.11838, appendix), without modulation because there is no timestep."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.fc1 = nn.Linear(width, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block: (..., V) -> (..., V)."""
        return x + self.fc2(F.silu(self.fc1(self.norm(x))))


def guided(predictions: Tensor, guidance_scale: float | Tensor) -> Tensor:
    """Apply classifier-free guidance: u + beta (c - u) (IMPACT Sec. 3.2; arXiv 2207.12598).

    ``predictions`` (2B, ...) holds the conditional ones c, then the unconditional ones u. The result is (B, ...).
    """
    conditional, null = predictions.chunk(2)
    return null + guidance_scale * (conditional - null)
