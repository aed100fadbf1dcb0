"""Export a pipeline as a folder of ONNX graphs that runs without PyTorch: in onnxruntime, also in a browser.

Weights that float16 holds exactly, as those of the shipped model and codec, are stored in it. All graphs compute in
float32.
"""

import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from impact_pl.codecs.builtin import BuiltinCodec
from impact_pl.codecs.decoder import NUM_NOISE_CHANNELS
from impact_pl.config import PRESETS
from impact_pl.errors import UserError
from impact_pl.inference.pipeline import ImpactPipeline
from impact_pl.models.heads.diffusion import DiffusionHead
from impact_pl.portable.check import check_errors, measure
from impact_pl.portable.folder import CONFIG, DECODING_FIELDS, FORMAT, TOKENIZER, check_supported
from impact_pl.portable.graphs import AudioDecoderGraph, AudioEncoderGraph, EncoderGraph, HeadGraph, TextGraph
from impact_pl.text_encoders.minilm import MiniLM

OPSET = 18
LARGE = 1024  # numbers of a weight from which on it is worth storing in float16
EXAMPLE_PATCHES = 20  # length of the example that graphs are traced with, at most; any other runs as well


@dataclass(frozen=True)
class Graph:
    """A module, and for each of its inputs an example and the names of its axes (empty: fixed)."""

    module: nn.Module
    inputs: dict[str, tuple[Tensor, tuple[str, ...]]]
    outputs: tuple[str, ...]


def export(pipeline: ImpactPipeline, folder: Path, half: bool = False) -> dict[str, float]:
    """Write the graphs, the tokenizer and config.json into ``folder``, which must not exist, and measure the graphs.

    Args:
        pipeline: On the CPU.
        folder: Appears complete or not at all.
        half: Round the weights of the text encoder to float16.

    Returns:
        The largest error of each graph.

    Raises:
        UserError: The folder exists, a part of the pipeline has no export, or the package onnx is missing.
    """
    check_exportable(pipeline)
    with new_folder(folder) as partial:
        for name, graph in graphs_of(pipeline).items():
            write_graph(graph, partial / f"{name}.onnx", rounded=half and name == "text")
        shutil.copyfile(text_encoder_of(pipeline).folder / TOKENIZER, partial / TOKENIZER)
        (partial / CONFIG).write_text(json.dumps(config_of(pipeline), indent=1) + "\n", encoding="utf-8")
        errors = measure(pipeline, partial)
        check_errors(errors, half)
    return errors


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``folder`` when the context ends without an exception.

    Raises:
        UserError: The folder exists.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already: choose another folder, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        partial = Path(temporary) / "new"
        partial.mkdir()
        yield partial
        partial.rename(folder)


def check_exportable(pipeline: ImpactPipeline) -> None:
    """Check that all parts of a pipeline have an export.

    Raises:
        UserError: One has not.
    """
    spec = pipeline.model.spec
    if not isinstance(pipeline.codec, BuiltinCodec):
        raise UserError(f"the codec {pipeline.codec.name!r} has no ONNX export: only the codec 'builtin' has one")
    if type(pipeline.model.head) is not DiffusionHead:
        raise UserError(f"the head {spec.model.head!r} has no ONNX export: only model.head = diffusion has one")
    if not isinstance(pipeline.text_encoder, MiniLM):
        name = (
            "no text encoder" if pipeline.text_encoder is None else f"the text encoder {pipeline.text_encoder.name!r}"
        )
        raise UserError(f"a model with {name} has no ONNX export: only one with 'minilm' has")
    check_supported(spec.own_decoding)
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UserError("the ONNX export needs onnx and onnxruntime: pip install 'impact-pl[onnx]'") from error


def text_encoder_of(pipeline: ImpactPipeline) -> MiniLM:
    """Return the text encoder of an exportable pipeline."""
    assert isinstance(pipeline.text_encoder, MiniLM)
    return pipeline.text_encoder


def graphs_of(pipeline: ImpactPipeline) -> dict[str, Graph]:
    """Build the graphs of a pipeline by name, with examples of their inputs."""
    model, codec, text_encoder = pipeline.model, pipeline.codec, text_encoder_of(pipeline)
    assert isinstance(codec, BuiltinCodec)
    assert isinstance(model.head, DiffusionHead)
    num_patches, dim, length = min(EXAMPLE_PATCHES, pipeline.max_frames), model.spec.model.dim, model.spec.text_length
    patches = torch.randn(2, num_patches, model.patch_dim)
    some = torch.arange(num_patches).repeat(2, 1)
    text_mask = torch.ones(2, length, dtype=torch.bool)
    frames = num_patches * pipeline.samples_per_patch // codec.spec.hop
    decoder = codec.decoder
    samples = (frames - 1) * codec.spec.hop + decoder.n_fft
    encoder_inputs = {
        "patches": (patches, ("batch", "patches")),
        "kept": (some[:, : num_patches // 2], ("batch", "kept")),
        "states": (torch.randn(2, length, dim), ("batch",)),
        "text_mask": (text_mask, ("batch",)),
        "positions": (some[:, num_patches // 2 :], ("batch", "positions")),
    }
    head_inputs = {
        "noisy": (torch.randn(6, model.patch_dim), ("rows",)),
        "timestep": (torch.tensor([500]), ()),
        "hidden": (torch.randn(6, dim), ("rows",)),
    }
    decoder_inputs = {
        "patches": (patches, ("batch", "patches")),
        "noise": (torch.randn(2, samples), ("batch", "samples")),
        "phases": (torch.rand(2, decoder.num_bins), ("batch",)),
        "inputs": (torch.randn(2, frames // 2, NUM_NOISE_CHANNELS), ("batch", "pairs")),
    }
    ids = torch.ones(2, length, dtype=torch.int64)
    return {
        "text": Graph(
            TextGraph(text_encoder, model),
            {"ids": (ids, ("batch",)), "mask": (text_mask, ("batch",))},
            ("states", "text_mask"),
        ),
        "encoder": Graph(EncoderGraph(model.encoder), encoder_inputs, ("hidden",)),
        "head": Graph(HeadGraph(model.head), head_inputs, ("output", "variance")),
        "audio_decoder": Graph(AudioDecoderGraph(codec, model), decoder_inputs, ("waveform",)),
        "audio_encoder": Graph(
            AudioEncoderGraph(codec, model),
            {"waveform": (torch.randn(2, num_patches * pipeline.samples_per_patch), ("batch", "samples"))},
            ("patches",),
        ),
    }


@torch.no_grad()
def write_graph(graph: Graph, path: Path, rounded: bool) -> None:
    """Trace a graph and write it with its weights as one file.

    The exporter is the tracing one: the other takes ten times as long for the same graph, and needs another package.
    """
    axes = {name: dict(enumerate(names)) for name, (_, names) in graph.inputs.items() if names}
    with warnings.catch_warnings(), without_fused_layers():
        warnings.simplefilter("ignore")  # about shapes that become constants: every graph is measured with others
        torch.onnx.export(
            graph.module.eval(),
            tuple(example for example, _ in graph.inputs.values()),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_axes=axes,
            do_constant_folding=False,
        )
    store_in_half(path, rounded)


@contextmanager
def without_fused_layers() -> Iterator[None]:
    """Let ``nn.TransformerEncoder`` run operation by operation, because its fused layer cannot be exported."""
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)


def store_in_half(path: Path, rounded: bool) -> None:
    """Store the large weights of a graph in float16 where that is exact, or all if ``rounded``; casts follow them."""
    import onnx

    model = onnx.load(path)
    casts = []
    for weight in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.size < LARGE:
            continue
        halves = values.astype(np.float16)
        if rounded or np.array_equal(halves.astype(np.float32), values):
            name = weight.name
            weight.CopyFrom(onnx.numpy_helper.from_array(halves, f"{name}.half"))
            casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    for node in reversed(casts):
        model.graph.node.insert(0, node)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def config_of(pipeline: ImpactPipeline) -> dict[str, Any]:
    """Describe what a runner needs besides the graphs."""
    model, codec = pipeline.model, pipeline.codec
    assert isinstance(codec, BuiltinCodec)
    spec, own = model.spec, asdict(model.spec.own_decoding)
    presets = {
        name: {field: value for field, value in changes.items() if field != "precision"}
        for name, changes in PRESETS.items()
    }
    return {
        "format": FORMAT,
        "sample_rate": pipeline.sample_rate,
        "samples_per_patch": pipeline.samples_per_patch,
        "max_patches": pipeline.max_frames,
        "patch_dim": model.patch_dim,
        "text_length": spec.text_length,
        "num_timesteps": spec.model.num_timesteps,
        "predicts_velocity": spec.model.prediction == "velocity",
        "excitation": {
            "hop": codec.spec.hop,
            "n_fft": codec.decoder.n_fft,
            "num_bins": codec.decoder.num_bins,
            "num_channels": NUM_NOISE_CHANNELS,
        },
        "decode_context": -(-codec.decode_context // pipeline.frames_per_patch),
        "decoding": {name: own[name] for name in DECODING_FIELDS},
        "presets": presets,
    }
