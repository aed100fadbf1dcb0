"""Generation: from text features to raw latents (S1 Sec. 3.2).

Dimensions: B clips, C latent channels, H latent frames (time), W latent width (frequency).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from impact_pl.config import DecodingConfig
from impact_pl.errors import UserError
from impact_pl.inference.engine import Engine, bind, build_engine
from impact_pl.models.heads import check_order
from impact_pl.models.impact import Impact
from impact_pl.randomness import Generators
from impact_pl.sampling.decoding import check_decoding, decode

if TYPE_CHECKING:
    from impact_pl.text_encoders.base import TextFeatures


@torch.no_grad()
def generate(
    model: Impact,
    text: "TextFeatures | None",
    num_frames: int,
    batch_size: int,
    decoding: DecodingConfig,
    generator: Generators,
    progress: Callable[[int, int], None] | None = None,
    engine: Engine | None = None,
) -> Tensor:
    """Raw latents (B, C, H, W), H = ``num_frames``, ready for the codec.

    ``text`` None samples the null condition, or an unconditional model; guidance then has nothing to do.
    ``engine`` is what :func:`build_engine` made of ``model``, None: made here for this call alone.

    Raises:
        ValueError: a decoding that this model cannot be decoded with, or text for a model trained without.
    """
    check_decoding(decoding, model.spec.model.num_timesteps)
    check_order(model.spec.model.head, decoding.order, decoding.reveal, decoding.solver)
    if text is not None and model.null_cond is None:
        raise UserError("This model was trained without text: generate without captions, or load a stage-2 model.")
    device = next(model.parameters()).device
    shape = (batch_size, model.spec.latent_channels, num_frames, model.spec.latent_width)
    patches = model.patchify(torch.zeros(shape, device=device))
    was_training = model.training
    model.eval()
    try:
        engine = engine or build_engine(model, decoding)
        cond = model.embed_text(text, batch_size)
        null = None if text is None else model.embed_text(None, batch_size)  # where it is another one
        with torch.autocast(device.type, engine.autocast, enabled=engine.autocast is not None):
            calls = bind(engine, cond, null, decoding, generator)
            propose = calls.propose if model.head.confidence == "log_probability" else None
            patches = decode(calls.encode, calls.sample, patches, decoding, generator, progress, propose)
    finally:
        model.train(was_training)
    return model.unwhiten(model.unpatchify(patches))
