"""The Impact model: a masked encoder over latent patches and a head that predicts them (IMPACT Sec. 3).

Dimension key:
    B: clips
    C, H, W: latent channels, frames (time) and width (frequency)
    p, q: frames and width of a patch (q = p, or W if that is smaller)
    N, P: patches per clip, H/p * W/q, and numbers per patch, C p q
    L: text positions
    D: model width
    K: masked positions that the head is trained on
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from impact_pl.checkpoint_io import Uninitialised, halved, load_weights, raise_if_memory, save_weights
from impact_pl.errors import UserError
from impact_pl.models.condition import Condition, packed
from impact_pl.models.heads import head_class
from impact_pl.models.heads.base import LearnsFromData
from impact_pl.models.latent_encoder import LatentEncoder
from impact_pl.models.spec import FILES, ImpactSpec, find_model, read_spec, read_weights_sha256, write_spec
from impact_pl.randomness import draw_normal, draw_uniform
from impact_pl.sampling.masking import draw_mask, mask_from_order, take

if TYPE_CHECKING:
    from impact_pl.text_encoders.base import TextFeatures

# The first matching rule wins. Initialisation as in MAR (LTH14/mar models/mar.py, diffloss.py; arXiv 2406.11838).
INIT_RULES: tuple[tuple[str, Callable[[Tensor], object]], ...] = (
    (r"head\.(.*modulation|final_proj|guidance_proj)\.|text_pool\.", nn.init.zeros_),
    (r"head\.time_embed\..*weight$", lambda weight: nn.init.normal_(weight, std=0.02)),
    (r"(_pos|_embed|null_cond)$", lambda weight: nn.init.normal_(weight, std=0.02)),
    (r"local\.conv\.weight$", lambda weight: nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)),
    (r"norm\d?\.weight$", nn.init.ones_),
    (r"bias$", nn.init.zeros_),
    (r"weight$", nn.init.xavier_uniform_),
)

Result = TypeVar("Result")


class ImpactLoss(NamedTuple):
    """Training loss of a batch.

    Attributes:
        loss: Mean of ``per_position``.
        per_position: (K * diffusion_batch_mul,) if every draw has its own timestep, else (K,).
        timesteps: Diffusion timesteps of ``per_position``; None for a head without diffusion.
        mask_ratio: Fraction of patches that were masked.
    """

    loss: Tensor
    per_position: Tensor
    timesteps: Tensor | None
    mask_ratio: float

    @classmethod
    def of(cls, losses: Tensor, timesteps: Tensor | None, mask_ratio: float) -> "ImpactLoss":
        """Average the losses that a head returns."""
        per_position = losses.flatten()
        return cls(per_position.mean(), per_position, None if timesteps is None else timesteps.flatten(), mask_ratio)


class Impact(nn.Module):
    """Masked latent encoder with a per-position head.

    Weights are initialised from torch's global generator, so seed it first.
    """

    def __init__(self, spec: ImpactSpec) -> None:
        super().__init__()
        self.spec = spec
        config = spec.model
        if config.text_padding < 1 and config.text_padding != -1:
            raise UserError(f"model.text_padding = {config.text_padding}: choose 1 or more, or -1 for all positions.")
        frames, width = spec.patch_shape
        if spec.latent_width % width:
            raise UserError(
                f"model.patch_size = {config.patch_size} does not divide the codec's latent width "
                f"{spec.latent_width}: set model.patch_size to a divisor of it."
            )
        self.patch_dim = spec.latent_channels * frames * width  # P
        self.encoder = LatentEncoder(config, self.patch_dim, spec.text_length)
        self.head = head_class(config.head)(config, self.patch_dim)
        self.text_proj = nn.ModuleDict({name: nn.Linear(d, config.dim) for name, (_, d) in spec.text_features.items()})
        widths = {name: d for name, (_, d) in spec.text_features.items()} if config.pooled_text else {}
        self.text_pool = nn.ModuleDict({name: nn.Linear(d, config.dim, bias=False) for name, d in widths.items()})
        self._latent_means: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self.null_cond = nn.Parameter(torch.zeros(1, spec.text_length, config.dim)) if spec.text_features else None
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise every parameter by the first rule of INIT_RULES that matches its name."""
        for name, parameter in self.named_parameters():
            next(init for pattern, init in INIT_RULES if re.search(pattern, name))(parameter)

    def whiten(self, moments: Tensor, generator: torch.Generator | None) -> Tensor:
        """Sample latents from the codec's posterior and whiten them.

        Args:
            moments: (B, 2C, H, W), the posterior's mean and standard deviation.
            generator: Source of the noise. None uses the posterior's mean instead of sampling.

        Returns:
            Whitened latents (B, C, H, W).
        """
        mean, std = moments.chunk(2, dim=1)
        raw = mean if generator is None else mean + std * draw_normal(mean.shape, generator, mean.device)
        return (raw - self._latent_mean(raw)) / self.spec.latent_std

    def unwhiten(self, latents: Tensor) -> Tensor:
        """Undo the whitening of latents (B, C, H, W), so that the codec can decode them."""
        return latents * self.spec.latent_std + self._latent_mean(latents)

    def _latent_mean(self, like: Tensor) -> Tensor:
        """Return the channel means (1, C, 1, 1), cached to avoid a host-to-device copy per batch."""
        key = (like.device, like.dtype)
        if key not in self._latent_means:
            mean = torch.tensor(self.spec.latent_mean, dtype=like.dtype, device=like.device)
            self._latent_means[key] = mean.view(1, -1, 1, 1)
        return self._latent_means[key]

    @property
    def patches_per_frame(self) -> int:
        """Patches at one time, W/q."""
        return self.spec.latent_width // self.spec.patch_shape[1]

    def patchify(self, latents: Tensor) -> Tensor:
        """Split latents (B, C, H, W) into patches (B, N, P).

        Patches are ordered row-major over (time, frequency), the numbers in a patch over (C, p, q).
        """
        p, q = self.spec.patch_shape
        if latents.shape[1] != self.spec.latent_channels or latents.shape[3] != self.spec.latent_width:
            raise UserError(
                f"Latents of shape {tuple(latents.shape)}, but this model takes {self.spec.latent_channels} channels "
                f"and width {self.spec.latent_width}: were they made with another codec?"
            )
        if latents.shape[2] % p:
            raise UserError(f"{latents.shape[2]} latent frames: must be a multiple of patch_size {p}")
        return rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=p, q=q)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """Reassemble patches (B, N, P) into latents (B, C, H, W)."""
        p, q = self.spec.patch_shape
        w = self.patches_per_frame
        return rearrange(patches, "b (h w) (c p q) -> b c (h p) (w q)", w=w, p=p, q=q)

    def embed_text(self, text: "TextFeatures | None", batch: int) -> Condition | None:
        """Embed text features, using ``null_cond`` at positions without text.

        Of the positions without text, only the first ``model.text_padding`` are attended to (all if it is -1). Features
        that the model was not built with (``data.text_features``) are ignored. With ``model.pooled_text`` a projection
        of each feature's mean is added to all positions, which does not depend on where a word stands.

        Args:
            text: Text features of the captions. None, or an all-False mask, gives the null condition.
            batch: Number of clips B.

        Returns:
            The condition, not packed; None for an unconditional model.
        """
        if self.null_cond is None:
            return None
        states = self.null_cond.expand(batch, -1, -1)
        text_mask, longest = torch.zeros(states.shape[:2], dtype=torch.bool, device=states.device), None
        if text is not None:
            text = self._own_text(text, batch)
            longest = None if text.longest is None else text.longest + self.spec.num_padding
            text_mask = text.mask
            known = torch.cat([self.text_proj[name](text.features[name]) for name in self.spec.text_features], dim=1)
            states = torch.where(text_mask[..., None], known, states.to(known.dtype))
            for name, pool in self.text_pool.items():
                states = states + pool(pooled(text.features[name], text_mask))[:, None]
        if self.spec.num_padding == self.spec.text_length:
            return Condition(states)
        text_mask = text_mask | ((~text_mask).int().cumsum(dim=1) <= self.spec.num_padding)
        return Condition(states, text_mask=text_mask, longest=longest)

    def _own_text(self, text: "TextFeatures", batch: int) -> "TextFeatures":
        """Select the features that this model uses, and the matching part of the mask."""
        got = {name: tuple(feature.shape) for name, feature in text.features.items()}
        want = {name: (batch, *shape) for name, shape in self.spec.text_features.items()}
        if any(got.get(name) != shape for name, shape in want.items()):
            raise UserError(f"Text features {got}, but this model takes {want}: use the text encoder it was built for.")
        masks = dict(zip(got, text.mask.split([shape[1] for shape in got.values()], dim=1), strict=True))
        features = {name: text.features[name] for name in want}
        return dataclasses.replace(text, features=features, mask=torch.cat([masks[name] for name in want], dim=1))

    def forward(self, *args: Any, **kwargs: Any) -> ImpactLoss:
        """Compute the training loss; see :meth:`loss` for the arguments."""
        return self.loss(*args, **kwargs)

    def within_forward(self, compute: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        """Run ``compute(self, ...)`` as one forward pass, so that a sharding strategy gathers the weights around it."""
        return compute(self, *args, **kwargs)

    def loss(
        self,
        latents: Tensor,
        text: "TextFeatures | None",
        generator: torch.Generator,
        caption_dropout: float = 0.0,
    ) -> ImpactLoss:
        """Compute the training loss at the masked positions (IMPACT Sec. 3.1).

        Args:
            latents: (B, C, H, W), whitened.
            text: Text features of the captions. None trains without text, or on the null condition.
            generator: Source of the mask, caption dropout, timesteps and noise. ``model.dropout`` uses torch's global
                one.
            caption_dropout: Fraction of captions replaced by the null condition, for classifier-free guidance.
        """
        patches = self.patchify(latents)
        order, num_masked = self.draw_mask(patches, generator)
        text = drop_captions(text, caption_dropout, generator)
        masked = order[:, :num_masked]  # (B, K)
        hidden = self.encode(patches, text, order, num_masked, masked)
        batch_mul = self.spec.model.diffusion_batch_mul
        losses, timesteps = cast(LearnsFromData, self.head).loss(hidden, take(patches, masked), generator, batch_mul)
        return ImpactLoss.of(losses, timesteps, num_masked / patches.shape[1])

    def draw_mask(self, patches: Tensor, generator: torch.Generator) -> tuple[Tensor, int]:
        """Draw an order (B, N) of the patches, and the number of patches at its beginning to mask."""
        batch, num_patches, _ = patches.shape
        width = self.patches_per_frame
        return draw_mask(self.spec.model.mask_ratio, batch, num_patches // width, width, generator, patches.device)

    def encode(
        self, patches: Tensor, text: "TextFeatures | None", order: Tensor, num_masked: int, positions: Tensor
    ) -> Tensor:
        """Encode patches (B, N, P) with the first ``num_masked`` of ``order`` (B, N) masked.

        Returns:
            Hidden states (B, K, D) at ``positions`` (B, K).
        """
        visible, mask = self.head.visible(patches), mask_from_order(order, num_masked)
        cond = packed(self.embed_text(text, len(patches)))
        return self.encoder(visible, mask, cond, positions, patches.shape[1] - num_masked)

    def save_pretrained(self, folder: str | Path, half: bool = False) -> None:
        """Write config.json and model.safetensors into ``folder``, in half precision if ``half`` is set."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = halved(self.state_dict()) if half else self.state_dict()
        sha256 = save_weights(weights, folder / "model.safetensors")
        write_spec(self.spec, folder / "config.json", sha256)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: torch.device | str = "cpu") -> "Impact":
        """Load a model from a folder written by :meth:`save_pretrained`, in float32 and eval mode.

        Args:
            folder: Path of the folder, or ``builtin`` for the model that ships with the package.
            device: Device to put the weights on.

        Raises:
            UserError: The folder or one of its files is missing, damaged or from another format version.
        """
        folder = find_model(folder)
        if not folder.is_dir():
            raise UserError(f"{folder}: no such model folder; impact train writes one to runs/NAME/model")
        for name in FILES:
            if not (folder / name).is_file():
                raise UserError(f"{folder} has no {name}: give the model/ folder that impact train wrote.")
        spec = read_spec(folder / "config.json")
        with Uninitialised():
            model = cls(spec)
        weights = load_weights(folder / "model.safetensors", read_weights_sha256(folder / "config.json"))
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise_if_memory(error)
            what = shorten(str(error), 300)  # torch lists every key, each in a line of its own
            raise UserError(f"{folder}/model.safetensors does not fit its config.json: {what}") from error
        return model.to(device).eval()


def pooled(feature: Tensor, text_mask: Tensor) -> Tensor:
    """Average a feature (B, L_i, d), whose padding is 0, to vectors (B, d) of unit RMS; 0 without text.

    Positions that :func:`drop_tokens` masks are included.
    """
    mean = F.normalize(feature.float().sum(dim=1), dim=-1) * feature.shape[-1] ** 0.5
    return (mean * text_mask.any(dim=1, keepdim=True)).to(feature.dtype)


def drop_captions(
    text: "TextFeatures | None", caption_dropout: float, generator: torch.Generator
) -> "TextFeatures | None":
    """Mask out a random fraction of the captions, which replaces them by the null condition."""
    if text is None or caption_dropout <= 0:
        return text
    kept = draw_uniform((len(text.mask), 1), generator, text.mask.device) >= caption_dropout
    return dataclasses.replace(text, mask=text.mask & kept)


def drop_tokens(text: "TextFeatures | None", token_dropout: float, generator: torch.Generator) -> "TextFeatures | None":
    """Mask out text positions, each caption's at a rate drawn from 0 to ``token_dropout``. The first is kept."""
    if text is None or token_dropout <= 0:
        return text
    rates = token_dropout * draw_uniform((len(text.mask), 1), generator, text.mask.device)
    kept = draw_uniform(text.mask.shape, generator, text.mask.device) >= rates
    kept[:, 0] = True
    return dataclasses.replace(text, mask=text.mask & kept)
