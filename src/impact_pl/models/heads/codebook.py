"""Residual vector quantisation of patches by k-means, fitted once and then fixed.

Dimensions: M patches (rows), P numbers a patch, Q codebooks, S codes in each. A code counts from 0.
"""

import torch
from torch import Tensor, nn

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
            raise ValueError(
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
            raise ValueError(
                "The codebooks of this model have not been fitted: call model.head.fit(patches, generator) with "
                "patches of the training set (impact-train does so before the first step)."
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
