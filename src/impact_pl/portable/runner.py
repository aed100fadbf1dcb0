"""Make sounds from an exported folder with onnxruntime and numpy, without PyTorch.

    runner = Runner(Path("folder"))
    waveform = runner.generate("a dog barks", seed=1)  # (S,) at runner.config.sample_rate

For the same caption and seed, the sound is the pipeline's up to rounding. The loop is that of
:func:`impact_pl.sampling.decoding.decode` for one clip.

Dimension key: N patches, K patches revealed together, P numbers per patch, L text positions, D width, S samples.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from impact_pl.config import DecodingConfig, with_preset
from impact_pl.errors import UserError
from impact_pl.portable.folder import TOKENIZER, check_supported, read_config
from impact_pl.portable.noise import Noise
from impact_pl.portable.steps import Step, ancestral_steps
from impact_pl.sampling.schedules import diffusion_steps_at, guidance_at, masked_counts

Progress = Callable[[int, int], None]
Conditions = tuple[np.ndarray, np.ndarray]  # states (2, L, D) and masks (2, L): the caption's and guidance's


class Graphs:
    """The ONNX graphs of a folder, each loaded when it first runs.

    Raises:
        UserError: onnxruntime is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError("running ONNX graphs needs onnxruntime: pip install 'impact-pl[onnx]'") from error
        self._folder, self._onnxruntime = folder, onnxruntime
        self._sessions: dict[str, Any] = {}

    def run(self, name: str, **inputs: np.ndarray) -> list[np.ndarray]:
        """Run a graph on inputs by name.

        Raises:
            UserError: Its file is damaged.
        """
        if name not in self._sessions:
            self._sessions[name] = self._load(self._folder / f"{name}.onnx")
        return self._sessions[name].run(None, inputs)

    def _load(self, path: Path) -> Any:
        options = self._onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait leave their cores
        try:
            return self._onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except self._onnxruntime.capi.onnxruntime_pybind11_state.InvalidProtobuf as error:
            raise UserError(f"{path} is damaged: export the model again") from error


class Runner:
    """What :class:`ImpactPipeline` does for one sound at a time, from an exported folder.

    Args:
        folder: Folder that ``impact export MODEL FOLDER --onnx`` wrote.

    Raises:
        UserError: The folder is incomplete, or onnxruntime is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self.config = read_config(folder)
        self.graphs = Graphs(folder)
        self.tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self.tokenizer.enable_truncation(self.config.text_length)
        self.tokenizer.enable_padding(length=self.config.text_length)

    def decoding(self, preset: str = "exact", **given: Any) -> DecodingConfig:
        """Apply a preset and ``given`` fields to the model's own decoding settings.

        Raises:
            UserError: A value is out of range, or has no runner.
        """
        decoding = with_preset(DecodingConfig(**asdict(self.config.decoding)), preset, given)
        check_supported(decoding)
        for name in ("guidance_scale", "temperature", "max_rms"):
            value = getattr(decoding, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"{name} = {value}: choose 0 or more")
        if not 0 <= decoding.final_diffusion_steps <= decoding.num_diffusion_steps:
            raise UserError(
                f"final_diffusion_steps = {decoding.final_diffusion_steps}: choose 0 to num_diffusion_steps"
            )
        self.steps(decoding, decoding.num_diffusion_steps)
        masked_counts(1, decoding.num_iterations)
        return decoding

    def generate(
        self,
        caption: str,
        seconds: float | None = None,
        seed: int = 0,
        decoding: DecodingConfig | None = None,
        negative_caption: str | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Make a sound (S,) in [-1, 1], float32.

        Args:
            caption: What is to be heard.
            seconds: Duration; None: that of the training clips.
            seed: The same caption and seed give the same sound.
            decoding: Result of :meth:`decoding`.
            negative_caption: What guidance leads away from, in place of the null condition.
            progress: Called with (iteration, number of iterations).

        Raises:
            UserError: The caption is empty, or the duration is not that of a training clip at most.
        """
        seconds = self.config.max_duration if seconds is None else seconds
        num_samples = round(seconds * self.config.sample_rate) if math.isfinite(seconds) else 0
        if not 1 <= num_samples <= self.config.max_patches * self.config.samples_per_patch:
            raise UserError(f"{seconds:g} s: choose a duration up to {self.config.max_duration:g} s")
        num_patches = -(-num_samples // self.config.samples_per_patch)
        patches = self.fill(
            np.zeros((num_patches, self.config.patch_dim), np.float32),
            np.zeros(num_patches, bool),
            np.ones(num_patches, bool),
            self.conditions(caption, negative_caption),
            decoding or self.decoding(),
            Noise(seed, caption, "latents"),
            progress,
        )
        waveform = self.decode(patches, Noise(seed, caption, "codec"))[:num_samples]
        return waveform / max(1.0, float(np.abs(waveform).max()))

    def conditions(self, caption: str, negative_caption: str | None = None) -> Conditions:
        """Encode a caption, and what guidance leads away from: another one, or the null condition.

        Raises:
            UserError: One is empty.
        """
        ids, mask = self._tokenize(caption)
        rows = [(ids, mask), (ids, np.zeros_like(mask))]
        if negative_caption is not None:
            rows[1] = self._tokenize(negative_caption)
        ids, mask = (np.stack(each) for each in zip(*rows, strict=True))
        states, text_mask = self.graphs.run("text", ids=ids, mask=mask)
        return states, text_mask

    def _tokenize(self, caption: str) -> tuple[np.ndarray, np.ndarray]:
        if not caption.strip():
            raise UserError("a caption needs at least one word")
        tokens = self.tokenizer.encode(caption)
        return np.array(tokens.ids), np.array(tokens.attention_mask, bool)

    def fill(
        self,
        patches: np.ndarray,
        known: np.ndarray,
        drawn: np.ndarray,
        conditions: Conditions,
        decoding: DecodingConfig,
        noise: Noise,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Draw patches of (N, P), given the known ones, which are returned unchanged.

        Args:
            patches: (N, P), whitened. Only the known ones are read.
            known: (N,) bool.
            drawn: (N,) bool. Patches that are neither stay masked.
            conditions: Result of :meth:`conditions`.
            decoding: Result of :meth:`decoding`.
            noise: Source of the order and of all draws.
            progress: Called with (iteration, number of iterations).
        """
        patches, visible = patches.copy(), known.copy()
        order = noise.uniform(len(patches)).argsort(kind="stable")
        order = order[drawn[order]]  # revealed from the end
        counts = masked_counts(len(patches), decoding.num_iterations, decoding.reveal, len(order))
        decoding = replace(decoding, num_iterations=max(1, len(counts)))
        for iteration, left in enumerate(counts, start=1):
            if left < len(order):
                positions, order = order[left:], order[:left]
                scale = guidance_at(decoding.guidance_schedule, decoding.guidance_scale, iteration, len(counts))
                hidden = self._encode(patches, visible, positions, conditions, guided=scale != 1)
                steps = self.steps(decoding, diffusion_steps_at(decoding, iteration))
                patches[positions] = self._sample(hidden, scale, steps, decoding.max_rms, noise)
                visible[positions] = True
            if progress is not None:
                progress(iteration, len(counts))
        return patches

    def steps(self, decoding: DecodingConfig, num_steps: int) -> list[Step]:
        """Compute the steps of a diffusion; see :func:`ancestral_steps`."""
        config = self.config
        return ancestral_steps(
            *(config.num_timesteps, num_steps, decoding.min_alpha_bar, config.predicts_velocity, decoding.temperature)
        )

    def _encode(
        self, patches: np.ndarray, visible: np.ndarray, positions: np.ndarray, conditions: Conditions, guided: bool
    ) -> np.ndarray:
        """Compute hidden vectors (G K, D): G = 2 with guidance, those of the other condition last."""
        count = 2 if guided else 1
        states, text_mask = (each[:count] for each in conditions)
        kept = np.flatnonzero(visible)
        batch = [np.repeat(x[None], count, axis=0) for x in (patches, kept, positions)]
        hidden = self.graphs.run(
            "encoder", patches=batch[0], kept=batch[1], states=states, text_mask=text_mask, positions=batch[2]
        )[0]
        return hidden.reshape(-1, hidden.shape[-1])

    def _sample(self, hidden: np.ndarray, scale: float, steps: list[Step], max_rms: float, noise: Noise) -> np.ndarray:
        """Sample patches (K, P) with the diffusion head, guided if there are hidden vectors of two conditions."""
        guided = scale != 1
        num_rows = len(hidden) // 2 if guided else len(hidden)
        x, *noises = noise.normal(len(steps), num_rows, self.config.patch_dim)
        for step, drawn in zip(steps, [*noises, None], strict=True):
            noisy = np.concatenate([x, x]) if guided else x
            output, variance = self.graphs.run("head", noisy=noisy, timestep=np.array([step.timestep]), hidden=hidden)
            if guided:
                conditional, other = output[:num_rows], output[num_rows:]
                output, variance = other + np.float32(scale) * (conditional - other), variance[:num_rows]
            x0 = np.float32(step.x0_of_x) * x + np.float32(step.x0_of_y) * output
            if max_rms:
                rms = np.sqrt(np.mean(np.square(x0), axis=1, keepdims=True))
                x0 = x0 * np.minimum(max_rms / np.maximum(rms, 1e-30), 1).astype(np.float32)
            x = np.float32(step.keep) * x + np.float32(step.mean) * x0
            if drawn is not None:
                x = x + np.float32(step.std) * drawn * np.exp(np.float32(step.slope) * variance)
        return x

    def decode(self, patches: np.ndarray, noise: Noise) -> np.ndarray:
        """Decode whitened patches (N, P) into a waveform (S,) that may exceed full scale."""
        excitation, num_samples = self.config.excitation, len(patches) * self.config.samples_per_patch
        num_frames = num_samples // excitation.hop
        return self.graphs.run(
            "audio_decoder",
            patches=patches[None],
            noise=noise.normal(1, (num_frames - 1) * excitation.hop + excitation.n_fft),
            phases=np.float32(2 * math.pi) * noise.uniform(excitation.num_bins)[None],
            inputs=noise.normal(1, num_frames // 2, excitation.num_channels),
        )[0][0]

    def encode(self, waveform: np.ndarray) -> np.ndarray:
        """Encode a waveform (S,), whole patches long, into whitened patches (N, P)."""
        return self.graphs.run("audio_encoder", waveform=waveform[None].astype(np.float32))[0][0]
