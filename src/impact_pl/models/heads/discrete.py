"""The discrete head: predicts codes of quantised patches with cross-entropy, and decodes by confidence.

Dimension key: B clips, K positions, D width of hidden, P numbers per patch, V width of the head, Q codebooks of S
codes. Sources: MAGNeT = Ziv et al., arXiv 2401.04577; MaskGIT = Chang et al., arXiv 2202.04200.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impact_pl.config import ModelConfig
from impact_pl.errors import UserError
from impact_pl.models.heads.base import Head, ResidualBlock, Sampling, guided
from impact_pl.models.transformer import LAYER_NORM_EPS
from impact_pl.randomness import Generators, draw_gumbel

NUM_ITERATIONS = 10  # of k-means, per codebook; twice as many gave no gain on real latents
PATCHES_A_CODE = 64  # size of the k-means sample; more hardly changes the codes
CHUNK = 8192  # patches whose distances to all codes are held in memory at once


class ResidualQuantizer(nn.Module):
    """Residual vector quantizer: Q codebooks, each for the residual of the previous ones (arXiv 2107.03312).

    The codebooks are a buffer: they are part of every checkpoint and model folder, and they are not trained.

    Note: MAGNeT's tokens come from a codec (EnCodec) that was trained together with its codebooks. Here the codebooks
    quantise the latents of a continuous codec, so that all heads are compared on the same codec.
    """

    codebooks: Tensor

    def __init__(self, num_codebooks: int, codebook_size: int, patch_dim: int) -> None:
        super().__init__()
        self.register_buffer("codebooks", torch.zeros(num_codebooks, codebook_size, patch_dim))  # zero: not fitted
        self._known_fitted = False  # cached, because the check waits for the device

    @torch.no_grad()
    def fit(self, patches: Tensor, generator: torch.Generator) -> None:
        """Fit the codebooks by k-means on patches (M, P), one by one, each on the residuals of the previous ones.

        Raises:
            UserError: There are fewer patches than codes.
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
        """Quantise patches (..., P) to codes (..., Q): the nearest entry of each codebook to the residual.

        Raises:
            UserError: The codebooks have not been fitted.
        """
        self._known_fitted = self._known_fitted or bool(self.codebooks.any())
        if not self._known_fitted:
            raise UserError(
                "The codebooks of this model have not been fitted: call model.head.fit(patches, generator) with "
                "patches of the training set (impact train does so before the first step)."
            )
        codes = []
        with torch.autocast(patches.device.type, enabled=False):  # in bf16 another code could be the nearest
            residual = patches.float().flatten(0, -2)
            for codebook in self.codebooks:
                codes.append(_nearest(residual, codebook))
                residual = residual - codebook[codes[-1]]
        return torch.stack(codes, dim=1).view(*patches.shape[:-1], len(codes))

    def decode(self, codes: Tensor) -> Tensor:
        """Reconstruct patches (..., P) from codes (..., Q) by summing over the codebooks."""
        return torch.stack([self.lookup(level, code) for level, code in enumerate(codes.unbind(dim=-1))]).sum(dim=0)

    def lookup(self, level: int, codes: Tensor) -> Tensor:
        """Look up the entries (..., P) of one codebook for codes (...)."""
        return self.codebooks[level][codes]


def _nearest(x: Tensor, codebook: Tensor) -> Tensor:
    """Return the index (M,) of the codebook entry (S, P) that is nearest to each row of x (M, P)."""
    half_square = codebook.square().sum(dim=1) / 2
    return torch.cat([(half_square - rows @ codebook.T).argmin(dim=1) for rows in x.split(CHUNK)])


def _kmeans(x: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Compute centroids (S, P) of x (M, P) by Lloyd's iterations from S random rows.

    A centroid that has lost all its rows moves to one of the rows farthest from their centroids.
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
    """Head that predicts the Q codes of a patch from the coarsest codebook to the finest, each given the previous ones.

    In training the encoder sees quantised patches, because decoding also produces quantised patches. The confidence of
    a draw is its log probability, as in MaskGIT (Sec. 3.2) and MAGNeT (Sec. 3.2).

    Note: MAGNeT decodes a complete clip codebook by codebook. Here the codes of a position are drawn together, with one
    MLP pass per codebook, so that all heads share one iterative decoding over positions. MAGNeT's span masking,
    restricted attention, rescorer and decreasing temperature are omitted for the same reason.
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
        """Compute the logits (B, K, S) of codebook ``level``.

        Args:
            hidden: (B, K, V), projected.
            partial: (B, K, P), sum of the entries chosen from the previous codebooks.
            level: Index of the codebook.
        """
        x = hidden + self.partial_proj(partial) + self.level_embed[level]
        for block in self.blocks:
            x = block(x)
        return self.final_proj[level](self.final_norm(x)).float()

    def loss(
        self, hidden: Tensor, target: Tensor, generator: torch.Generator, batch_mul: int = 1
    ) -> tuple[Tensor, None]:
        """Compute the cross-entropy (B, K) in nats per code, averaged over the codebooks. Chance level is log S."""
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
        """Sample patches (B, K, P) as sums of codebook entries."""
        return self.propose(hidden, null_hidden, sampling, generator)[0]

    def num_passes(self, num_diffusion_steps: int) -> int:
        return len(self.final_proj)

    def propose(
        self, hidden: Tensor, null_hidden: Tensor | None, sampling: Sampling, generator: Generators
    ) -> tuple[Tensor, Tensor]:
        """Sample codes from softmax(logits / temperature), with guidance on the logits.

        Temperature 0 takes the likeliest code. The log probability is that of all codes of a position together, at
        temperature 1 (MaskGIT).
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
        """Quantise patches (B, N, P)."""
        return self.quantizer.decode(self.quantizer.encode(patches)).to(patches.dtype)

    def fit(self, patches: Tensor, generator: torch.Generator) -> None:
        """Fit the codebooks by k-means on patches (M, P) of the training set.

        Raises:
            UserError: There are fewer patches than codes in a codebook.
        """
        self.quantizer.fit(patches, generator)
