"""Measure how far the exported graphs are from the PyTorch modules that they replace."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from impact_pl.codecs.decoder import NUM_NOISE_CHANNELS
from impact_pl.inference.pipeline import ImpactPipeline
from impact_pl.models.heads.diffusion import DiffusionHead
from impact_pl.portable.runner import Graphs
from impact_pl.text_encoders.minilm import MiniLM

CAPTIONS = ["a dog barks", "rain on a tin roof while somebody walks past and a church bell rings far away", "wind"]
LENGTHS = (2, 7, 63)  # patches, as far as the model has as many; and all that it has
TOLERANCE = 2e-4  # of numbers whose standard deviation is about 1
HALF_TOLERANCE = 1e-2  # of the text encoder with rounded weights

Case = tuple[str, dict[str, np.ndarray], list[Tensor]]  # graph, its inputs, and what PyTorch computes from them


@torch.no_grad()
def measure(pipeline: ImpactPipeline, folder: Path) -> dict[str, float]:
    """Return the largest absolute error of each graph, over several lengths including none and all patches known."""
    graphs = Graphs(folder)
    generator = torch.Generator().manual_seed(0)
    errors: dict[str, float] = {}
    for name, inputs, expected in cases(pipeline, generator):
        found = graphs.run(name, **inputs)
        for x, y in zip(found, expected, strict=True):
            assert x.shape == tuple(y.shape), f"{name}: {x.shape}, expected {tuple(y.shape)}"
            errors[name] = max(errors.get(name, 0.0), float(np.abs(x.astype(np.float64) - y.numpy()).max()))
    return errors


def check_errors(errors: dict[str, float], half: bool) -> None:
    """Check that errors are within what rounding explains.

    Raises:
        RuntimeError: One is not.
    """
    for name, error in errors.items():
        bound = HALF_TOLERANCE if half and name == "text" else TOLERANCE
        if not error <= bound:
            raise RuntimeError(f"the ONNX graph {name} differs from PyTorch by {error:.2g}, more than {bound:g}")


def cases(pipeline: ImpactPipeline, generator: torch.Generator) -> Iterator[Case]:
    """Yield inputs of the graphs with what the pipeline's own modules compute from them."""
    yield text_case(pipeline)
    for num_patches in sorted({*(each for each in LENGTHS if each < pipeline.max_frames), pipeline.max_frames}):
        for num_kept in (0, num_patches // 2, num_patches - 1):
            yield encoder_case(pipeline, num_patches, num_kept, generator)
        yield from codec_cases(pipeline, num_patches, generator)
        yield head_case(pipeline, num_patches, generator)


def text_case(pipeline: ImpactPipeline) -> Case:
    """Compare the conditions of captions; the last row is the null condition."""
    assert isinstance(pipeline.text_encoder, MiniLM)
    tokens = [pipeline.text_encoder.tokenizer.encode(caption) for caption in CAPTIONS]
    ids, mask = (np.array([getattr(each, name) for each in tokens]) for name in ("ids", "attention_mask"))
    conditions = [pipeline.model.embed_text(pipeline.text_encoder.encode(CAPTIONS), len(CAPTIONS))]
    conditions.append(pipeline.model.embed_text(None, 1))
    states = torch.cat([cond.states for cond in conditions if cond is not None])
    masks = [cond.text_mask for cond in conditions if cond is not None and cond.text_mask is not None]
    text_mask = torch.cat(masks) if masks else torch.ones(states.shape[:2], dtype=torch.bool)
    inputs = {"ids": np.pad(ids, ((0, 1), (0, 0))), "mask": np.pad(mask, ((0, 1), (0, 0))).astype(bool)}
    return "text", inputs, [states, text_mask]


def encoder_case(pipeline: ImpactPipeline, num_patches: int, num_kept: int, generator: torch.Generator) -> Case:
    """Compare hidden vectors at half of the masked positions, and at least one."""
    model = pipeline.model
    order = torch.randperm(num_patches, generator=generator)
    kept, positions = order[:num_kept].sort().values, order[num_kept : num_kept + max(1, (num_patches - num_kept) // 2)]
    patches = torch.randn(2, num_patches, model.patch_dim, generator=generator)
    mask = torch.ones(2, num_patches, dtype=torch.bool).index_fill(1, kept, False)
    assert pipeline.text_encoder is not None
    cond = model.embed_text(pipeline.text_encoder.encode(CAPTIONS[:2]), 2)
    assert cond is not None
    text_mask = torch.ones(cond.states.shape[:2], dtype=torch.bool) if cond.text_mask is None else cond.text_mask
    both = kept.repeat(2, 1), positions.repeat(2, 1)
    arrays = [x.numpy() for x in (patches, both[0], cond.states, text_mask, both[1])]
    inputs = dict(zip(("patches", "kept", "states", "text_mask", "positions"), arrays, strict=True))
    return "encoder", inputs, [model.encoder(patches, mask, cond, both[1], num_kept)]


def head_case(pipeline: ImpactPipeline, rows: int, generator: torch.Generator) -> Case:
    """Compare the head's network at a random timestep."""
    head = pipeline.model.head
    assert isinstance(head, DiffusionHead)
    noisy = torch.randn(rows, head.patch_dim, generator=generator)
    hidden = torch.randn(rows, head.cond_proj.in_features, generator=generator)
    timestep = torch.randint(head.num_timesteps, (1,), generator=generator)
    network = head.network(head.input_proj(noisy), timestep, head.cond_proj(hidden))
    inputs = {"noisy": noisy.numpy(), "timestep": timestep.numpy(), "hidden": hidden.numpy()}
    return "head", inputs, list(network.chunk(2, dim=-1))


def codec_cases(pipeline: ImpactPipeline, num_patches: int, generator: torch.Generator) -> Iterator[Case]:
    """Compare both directions of the codec on noise that fades out."""
    samples = num_patches * pipeline.samples_per_patch
    waveform = 0.3 * torch.randn(1, samples, generator=generator) * torch.linspace(1, 0, samples) ** 2
    patches = pipeline.model.patchify(pipeline.encode(waveform, pipeline.sample_rate))
    yield "audio_encoder", {"waveform": waveform.numpy()}, [patches]
    seed, codec = int(torch.randint(1 << 31, (), generator=generator)), pipeline.codec
    excitation = excitation_of(pipeline, num_patches, torch.Generator().manual_seed(seed))
    latents = pipeline.model.unwhiten(pipeline.model.unpatchify(patches))
    expected = codec.decode(latents, torch.Generator().manual_seed(seed))
    yield "audio_decoder", {"patches": patches.numpy(), **excitation}, [expected]


def excitation_of(pipeline: ImpactPipeline, num_patches: int, generator: torch.Generator) -> dict[str, np.ndarray]:
    """Draw what :class:`NoiseExcitedDecoder` draws for one clip."""
    decoder: Any = pipeline.codec.decoder
    frames = num_patches * pipeline.samples_per_patch // decoder.hop
    noise = torch.randn((1, (frames - 1) * decoder.hop + decoder.n_fft), generator=generator)
    phases = 2 * math.pi * torch.rand((1, decoder.num_bins), generator=generator)
    inputs = torch.randn((1, frames // 2, NUM_NOISE_CHANNELS), generator=generator)
    return {"noise": noise.numpy(), "phases": phases.numpy(), "inputs": inputs.numpy()}
