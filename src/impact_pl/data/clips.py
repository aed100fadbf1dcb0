"""Keep recordings in memory and draw random crops from them, to train the codec's decoder."""

import torch
from torch import Generator, Tensor

from impact_pl.audio import fit_length, load_audio
from impact_pl.data.manifest import read_manifest
from impact_pl.errors import UserError

MAX_CLIP_WEIGHT = 5 * 16_000  # samples: a longer clip is drawn no more often than one of this length


def load_clips(path: str, sample_rate: int) -> tuple[list[Tensor], list[Tensor]]:
    """Load the recordings of a manifest's splits ``train`` and ``valid``, each (S_i,) int16: an hour takes 115 MB.

    Unreadable ones are left out and counted.

    Raises:
        UserError: The manifest is missing, or has nothing to train on.
    """
    if not path:
        raise UserError("the codec trains on recordings: give their manifest as data.path=manifest.jsonl")
    records = read_manifest(path)
    clips: dict[str, list[Tensor]] = {"train": [], "valid": []}
    problems = []
    for record in records:
        if record.split in clips:
            try:
                waveform = load_audio(record.path, sample_rate, record.start, record.duration)
                clips[record.split].append((waveform * 32767).round().to(torch.int16))
            except UserError as error:
                problems.append(str(error))
    if problems:
        print(f"{len(problems)} unreadable recording(s) left out, the first: {problems[0]}", flush=True)
    if not clips["train"]:
        reason = f"; unreadable: {len(problems)}, the first: {problems[0]}" if problems else ""
        raise UserError(f"{path} holds no record of split 'train' to train on{reason}")
    return clips["train"], clips["valid"]


def to_float(clip: Tensor) -> Tensor:
    """Convert 16-bit samples to floats in [-1, 1]."""
    return clip.float() / 32767


def draw_crops(clips: list[Tensor], count: int, num_samples: int, generator: Generator) -> Tensor:
    """Draw random crops (count, num_samples) in [-1, 1], half of them up to 12 dB quieter.

    Clips are drawn in proportion to their length, with ``MAX_CLIP_WEIGHT`` at most; short ones are padded with silence.
    """
    weights = torch.tensor([float(len(clip)) for clip in clips]).clamp(max=MAX_CLIP_WEIGHT)
    crops = []
    for index in torch.multinomial(weights, count, replacement=True, generator=generator).tolist():
        clip = clips[index]
        start = int(torch.randint(max(1, len(clip) - num_samples + 1), (1,), generator=generator))
        crops.append(fit_length(to_float(clip[start : start + num_samples]), num_samples))
    decibels = -24 * (torch.rand(count, 1, generator=generator) - 0.5).clamp(min=0)
    return torch.stack(crops) * 10 ** (decibels / 20)
