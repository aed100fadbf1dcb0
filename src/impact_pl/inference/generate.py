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
from impact_pl.sampling.decoding import check_decoding, decode
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
) -> Tensor:
    """Generate raw latents (B, C, H, W), H = ``num_frames``, ready for the codec.

    Args:
        model: Model in any mode. It is in eval mode during the call.
        text: Text features of B captions. None samples the null condition, or an unconditional model, without guidance.
        num_frames: H.
        batch_size: B.
        decoding: Iterations, steps, guidance and so on.
        generator: One per clip, which makes a clip independent of its batch up to rounding, or one for the batch.
        progress: Called with (iteration, number of iterations) after each; with ``reveal=adaptive``, for the last clip.
        engine: Result of :func:`build_engine` for ``model``. None builds one for this call.

    Raises:
        UserError: The model cannot be decoded with this configuration, or was trained without text but got some.
    """
    check_decoding(decoding, model.spec.model.num_timesteps)
    check_order(model.spec.model.head, decoding.order, decoding.reveal, decoding.solver)
    if text is not None and model.null_cond is None:
        raise UserError("This model was trained without text: generate without captions, or load a stage-2 model.")
    device = next(model.parameters()).device
    shape = (batch_size, model.spec.latent_channels, num_frames, model.spec.latent_width)
    blank = model.patchify(torch.zeros(shape, device=device))  # (B, N, P)
    with _evaluating(model):
        engine = engine or build_engine(model, decoding)
        with torch.autocast(device.type, engine.autocast, enabled=engine.autocast is not None):
            if isinstance(generator, torch.Generator) or decoding.reveal != "adaptive":
                patches = _decode(model, engine, text, blank, decoding, generator, progress)
            else:  # in a batch, the most uncertain clip would decide the number of revealed patches for all
                last = batch_size - 1
                clips = [
                    _decode(
                        model,
                        engine,
                        _clip(text, i),
                        blank[i : i + 1],
                        decoding,
                        [own],
                        progress if i == last else None,
                    )
                    for i, own in enumerate(generator)
                ]
                patches = torch.cat(clips)
    return model.unwhiten(model.unpatchify(patches))


def _decode(
    model: Impact,
    engine: Engine,
    text: TextFeatures | None,
    blank: Tensor,
    decoding: DecodingConfig,
    generator: Generators,
    progress: Progress | None,
) -> Tensor:
    """Decode patches (B, N, P), starting from ``blank`` ones."""
    cond = model.embed_text(text, len(blank))
    null = None if text is None else model.embed_text(None, len(blank))  # condition for guidance
    calls = bind(engine, cond, null, decoding, generator)
    propose = calls.propose if model.head.confidence == "log_probability" else None
    return decode(calls.encode, calls.sample, blank, decoding, generator, progress, propose)


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
