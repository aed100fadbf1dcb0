"""Generation: from text features to raw latents (IMPACT Sec. 3.2).

Dimension key: B clips, N patches, P numbers per patch, C latent channels, H latent frames (time), W latent width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from impact_pl.config import DecodingConfig
from impact_pl.errors import UserError
from impact_pl.inference.engine import Engine, bind, build_engine
from impact_pl.models.heads import check_order
from impact_pl.models.impact import Impact
from impact_pl.randomness import Generators
from impact_pl.sampling.decoding import Known, check_decoding, decode
from impact_pl.text_encoders.base import TextFeatures

Progress = Callable[[int, int], None]


@torch.no_grad()
def generate(
    model: Impact,
    text: TextFeatures | None,
    num_frames: int,
    batch_size: int,
    decoding: DecodingConfig,
    generator: Generators,
    progress: Progress | None = None,
    engine: Engine | None = None,
    negative: TextFeatures | None = None,
) -> Tensor:
    """Generate raw latents (B, C, H, W), H = ``num_frames``, ready for the codec: :func:`fill` with nothing known.

    Args:
        model: Model in any mode. It is in eval mode during the call.
        text: Text features of B captions. None samples the null condition, or an unconditional model, without guidance.
        num_frames: H.
        batch_size: B.
        decoding: Iterations, steps, guidance and so on.
        generator: One per clip, which makes a clip independent of its batch up to rounding, or one for the batch.
        progress: Called with (iteration, number of iterations) after each; with ``reveal=adaptive``, for the last clip.
        engine: Result of :func:`build_engine` for ``model``. None builds one for this call.
        negative: Text features of B captions that guidance leads away from. None: the null condition.

    Raises:
        UserError: The model cannot be decoded with this configuration, or was trained without text but got some.
    """
    shape = (batch_size, model.spec.latent_channels, num_frames, model.spec.latent_width)
    blank = model.patchify(torch.zeros(shape, device=next(model.parameters()).device))  # (B, N, P)
    patches = fill(model, text, blank, None, decoding, generator, progress, engine, negative)
    return model.unwhiten(model.unpatchify(patches))


@torch.no_grad()
def fill(
    model: Impact,
    text: TextFeatures | None,
    patches: Tensor,
    known: Known | None,
    decoding: DecodingConfig,
    generator: Generators,
    progress: Progress | None = None,
    engine: Engine | None = None,
    negative: TextFeatures | None = None,
) -> Tensor:
    """Draw the missing patches of (B, N, P), whitened, given the known ones, which are returned unchanged.

    Args:
        model: See :func:`generate`, as for the arguments that are not listed here.
        text: Text features of B captions, or None.
        patches: (B, N, P). Only the known ones are read.
        known: Which patches are known, and which to draw. None: draw all.
        decoding: Iterations, steps, guidance and so on.
        generator: One per clip, or one for the batch.
        progress: Called with (iteration, number of iterations) after each.
        engine: Result of :func:`build_engine`.
        negative: Text features of B captions that guidance leads away from.
    """
    check_decoding(decoding, model.spec.model.num_timesteps)
    check_order(model.spec.model.head, decoding.order, decoding.reveal, decoding.solver)
    if text is not None and model.null_cond is None:
        raise UserError("This model was trained without text: generate without captions, or load a stage-2 model.")
    device = patches.device
    with _evaluating(model):
        engine = engine or build_engine(model, decoding)
        visible = patches if known is None else model.head.visible(patches)
        with torch.autocast(device.type, engine.autocast, enabled=engine.autocast is not None):
            if isinstance(generator, torch.Generator) or decoding.reveal != "adaptive":
                drawn = _decode(model, engine, text, negative, visible, known, decoding, generator, progress)
            else:  # in a batch, the most uncertain clip would decide the number of revealed patches for all
                last = len(patches) - 1
                clips = [
                    _decode(
                        model,
                        engine,
                        _clip(text, i),
                        _clip(negative, i),
                        visible[i : i + 1],
                        known and known.clip(i),
                        decoding,
                        [own],
                        progress if i == last else None,
                    )
                    for i, own in enumerate(generator)
                ]
                drawn = torch.cat(clips)
    return drawn if known is None else torch.where(known.mask.to(device)[..., None], patches, drawn)


def _decode(
    model: Impact,
    engine: Engine,
    text: TextFeatures | None,
    negative: TextFeatures | None,
    patches: Tensor,
    known: Known | None,
    decoding: DecodingConfig,
    generator: Generators,
    progress: Progress | None,
) -> Tensor:
    """Decode patches (B, N, P), starting from the known ones."""
    cond = model.embed_text(text, len(patches))
    null = None if text is None else model.embed_text(negative, len(patches))  # condition for guidance
    calls = bind(engine, cond, null, decoding, generator)
    propose = calls.propose if model.head.confidence == "log_probability" else None
    return decode(calls.encode, calls.sample, patches, decoding, generator, progress, propose, known)


def _clip(text: TextFeatures | None, index: int) -> TextFeatures | None:
    """Select the features of one clip as a batch of one."""
    if text is None:
        return None
    features = {name: feature[index : index + 1] for name, feature in text.features.items()}
    return replace(text, features=features, mask=text.mask[index : index + 1])


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
