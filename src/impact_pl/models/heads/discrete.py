"""Discrete tokens instead of a density: cross-entropy over the codes of quantised patches, confidence to decode by.

Dimensions: B clips, K positions, D width of hidden, P numbers a patch, V width of the head, Q codebooks of S codes.
Sources: MAGNeT = Ziv et al., arXiv 2401.04577; MaskGIT = Chang et al., arXiv 2202.04200.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impact_pl.config import ModelConfig
from impact_pl.errors import UserError
from impact_pl.models.heads.base import Head, ResidualBlock, Sampling, guided
from impact_pl.models.transformer import LAYER_NORM_EPS
from impact_pl.randomness import Generators, draw_gumbel

NUM_ITERATIONS = 10  # of k-means, a codebook; twice as many gained nothing on real latents
PATCHES_A_CODE = 64  # of the sample that k-means sees; more does not change the codes much
CHUNK = 8192  # patches whose distances to all codes are held at once


class ResidualQuantizer(nn.Module):
    """Q codebooks, each for what the ones before left over (RVQ; SoundStream, arXiv 2107.03312, Sec. III-C).

    The codebooks are a buffer: part of every checkpoint and model folder, and not trained.

    Note: MAGNeT's tokens come from a codec (EnCodec) that was trained together with its codebooks; these quantise the
    latents of a codec that was not, so that all heads are compared on the same codec.
    """

    codebooks: Tensor

    def __init__(self, num_codebooks: int, codebook_size: int, patch_dim: int) -> None:
        super().__init__()
        self.register_buffer("codebooks", torch.zeros(num_codebooks, codebook_size, patch_dim))  # zero: not fitted
        self._known_fitted = False  # asked once, because the answer waits for the device

    @torch.no_grad()
    def fit(self, patches: Tensor, generator: torch.Generator) -> None:
        """K-means on patches (M, P), a codebook at a time, each on the residuals of the ones before.

        Raises:
            ValueError: fewer patches than codes.
        """
        _, size, _ = self.codebooks.shape
        if len(patches) < size:
            raise UserError(
                f"{len(patches)} patches in the training set, too few for model.codebook_size = {size} codes: choose "
                f"model.codebook_size of at most {len(patches)} (there should be {PATCHES_A_CODE} patches a code)."
            )
        residual = patches.float()
        for codebook in self.codebooks:
            codebook.copy_(_kmeans(residual, len(codebook), generator))
            residual = residual - codebook[_nearest(residual, codebook)]

    @torch.no_grad()
    def encode(self, patches: Tensor) -> Tensor:
        """Codes (..., Q) of patches (..., P), each codebook's nearest to what is left over.

        Raises:
            ValueError: the codebooks have not been fitted.
        """
        self._known_fitted = self._known_fitted or bool(self.codebooks.any())
        if not self._known_fitted:
            raise UserError(
                "The codebooks of this model have not been fitted: call model.head.fit(patches, generator) with "
                "patches of the training set (impact train does so before the first step)."
            )
        codes = []
        with torch.autocast(patches.device.type, enabled=False):  # in bf16 the nearest code would be another one
            residual = patches.float().flatten(0, -2)
            for codebook in self.codebooks:
                codes.append(_nearest(residual, codebook))
                residual = residual - codebook[codes[-1]]
        return torch.stack(codes, dim=1).view(*patches.shape[:-1], len(codes))

    def decode(self, codes: Tensor) -> Tensor:
        """Patches (..., P) of codes (..., Q): the sum over the codebooks."""
        return torch.stack([self.lookup(level, code) for level, code in enumerate(codes.unbind(dim=-1))]).sum(dim=0)

    def lookup(self, level: int, codes: Tensor) -> Tensor:
        """Entries (..., P) of one codebook for its codes (...)."""
        return self.codebooks[level][codes]


def _nearest(x: Tensor, codebook: Tensor) -> Tensor:
    """Code (M,) of the entry of codebook (S, P) that is nearest to each row of x (M, P)."""
    half_square = codebook.square().sum(dim=1) / 2
    return torch.cat([(half_square - rows @ codebook.T).argmin(dim=1) for rows in x.split(CHUNK)])


def _kmeans(x: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Centroids (S, P) of x (M, P): Lloyd's iterations from S random rows.

    A centroid that has lost all its rows goes to one of the rows that are farthest from theirs.
    """
    start = torch.randperm(len(x), generator=generator, device=generator.device)[:size]
    centroids = x[start.to(x.device)]
    for _ in range(NUM_ITERATIONS):
        codes = _nearest(x, centroids)
        counts = torch.bincount(codes, minlength=size)
        error = (x - centroids[codes]).square().sum(dim=1)
        sums = torch.zeros_like(centroids).index_add_(0, codes, x)
        centroids = sums / counts.clamp(min=1)[:, None]
        empty = counts == 0
        centroids[empty] = x[error.topk(int(empty.sum())).indices]
    return centroids


class DiscreteHead(Head):
    """Predicts the Q codes of a patch, from the coarsest codebook to the finest, each given the ones before.

    In training the encoder sees quantised patches, because those are what it sees when decoding. How sure the head is
    of a draw is its log probability, as in MaskGIT (Sec. 3.2) and MAGNeT (Sec. 3.2).

    Note: MAGNeT decodes a whole clip codebook by codebook. Here a position's codes are drawn together, one MLP pass a
    codebook, so that all heads share one iterative decoding over positions. MAGNeT's span masking, restricted
    attention, rescorer and falling temperature are left out for the same reason.
    """

    confidence = "log_probability"

    def __init__(self, config: ModelConfig, patch_dim: int) -> None:
        super().__init__()
        width, self.patch_dim = config.head_width, patch_dim
        self.num_fit_patches = PATCHES_A_CODE * config.codebook_size
        self.quantizer = ResidualQuantizer(config.num_codebooks, config.codebook_size, patch_dim)
        self.hidden_proj = nn.Linear(config.dim, width)
        self.partial_proj = nn.Linear(patch_dim, width)
        self.level_embed = nn.Parameter(torch.zeros(config.num_codebooks, width))
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(config.head_depth))
        self.final_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.final_proj = nn.ModuleList(nn.Linear(width, config.codebook_size) for _ in range(config.num_codebooks))

    def forward(self, hidden: Tensor, partial: Tensor, level: int) -> Tensor:
        """Logits (B, K, S) of codebook ``level``.

        Args:
            hidden: (B, K, V), projected.
            partial: (B, K, P), the patch as far as the codebooks before tell it.
        """
        x = hidden + self.partial_proj(partial) + self.level_embed[level]
        for block in self.blocks:
            x = block(x)
        return self.final_proj[level](self.final_norm(x)).float()

    def loss(
        self, hidden: Tensor, target: Tensor, generator: torch.Generator, batch_mul: int = 1
    ) -> tuple[Tensor, None]:
        """Cross-entropy (B, K) in nats a code, the mean over the codebooks; log S for a head that knows nothing."""
        codes = self.quantizer.encode(target)  # (B, K, Q)
        hidden = self.hidden_proj(hidden)
        partial = torch.zeros_like(target, dtype=torch.float32)
        losses = []
        for level, code in enumerate(codes.unbind(dim=-1)):
            logits = self(hidden, partial, level)
            losses.append(F.cross_entropy(logits.flatten(0, 1), code.flatten(), reduction="none").view_as(code))
            partial = partial + self.quantizer.lookup(level, code)
        return torch.stack(losses).mean(dim=0), None

    def sample(self, hidden: Tensor, null_hidden: Tensor | None, sampling: Sampling, generator: Generators) -> Tensor:
        """Patches (B, K, P), sums of entries of the codebooks."""
        return self.propose(hidden, null_hidden, sampling, generator)[0]

    def num_passes(self, num_diffusion_steps: int) -> int:
        return len(self.final_proj)

    def propose(
        self, hidden: Tensor, null_hidden: Tensor | None, sampling: Sampling, generator: Generators
    ) -> tuple[Tensor, Tensor]:
        """Codes drawn from softmax(logits / temperature), 0: the likeliest; logits under guidance.

        The log probability is that of all codes of a position together, at temperature 1 (MaskGIT).
        """
        shape = hidden.shape[:2]
        is_guided = null_hidden is not None
        if null_hidden is not None:
            hidden = torch.cat([hidden, null_hidden])
        hidden = self.hidden_proj(hidden)  # (B or 2B, K, V)
        partial = torch.zeros(*shape, self.patch_dim, device=hidden.device)
        log_probability = torch.zeros(shape, device=hidden.device)
        for level in range(len(self.final_proj)):
            logits = self(hidden, partial.repeat(1 + is_guided, 1, 1), level)
            if is_guided:
                logits = guided(logits, sampling.guidance_scale)
            noise = draw_gumbel(logits.shape, generator, logits.device)
            code = (logits + sampling.temperature * noise).argmax(dim=-1)  # (B, K)
            log_probability = log_probability + logits.log_softmax(dim=-1).gather(-1, code[..., None])[..., 0]
            partial = partial + self.quantizer.lookup(level, code)
        return partial, log_probability

    def visible(self, patches: Tensor) -> Tensor:
        """Patches (B, N, P), quantised."""
        return self.quantizer.decode(self.quantizer.encode(patches)).to(patches.dtype)

    def fit(self, patches: Tensor, generator: torch.Generator) -> None:
        """The codebooks, by k-means on patches (M, P) of the training set.

        Raises:
            ValueError: fewer patches than codes in a codebook.
        """
        self.quantizer.fit(patches, generator)
