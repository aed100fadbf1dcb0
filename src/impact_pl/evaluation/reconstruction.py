"""Write real clips and their codec reconstructions.

The codec's loss limits the quality of every generated sound, so a report shows real | reconstructed | generated.
"""

from pathlib import Path

import torch

from impact_pl.audio import fit_length, load_audio, save_audio
from impact_pl.codecs.base import AudioCodec
from impact_pl.data.manifest import Record, file_stem
from impact_pl.errors import UserError


def write_clip(
    record: Record,
    codec: AudioCodec,
    duration: float,
    reconstructed: Path | None,
    real: Path | None = None,
    padding: str = "silence",
) -> None:
    """Write a record's original and reconstruction into those of the two folders that lack them."""
    name = file_stem(record.id) + ".flac"
    folders = [folder for folder in (real, reconstructed) if folder is not None and not (folder / name).is_file()]
    if not folders:
        return
    waveform = load_audio(record.path, codec.sample_rate, record.start, min(record.duration or 1e9, duration))
    waveform = fit_length(waveform, round(duration * codec.sample_rate), padding)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        sound = waveform if folder is real else reconstruct(codec, waveform)
        save_audio(folder / name, sound, codec.sample_rate)


def choose_records(records: list[Record], split: str | None, limit: int | None, seed: int) -> list[Record]:
    """Choose the captioned records of ``split``; at most ``limit`` of them, drawn with ``seed``, in manifest order."""
    chosen = [record for record in records if split in (None, record.split) and record.caption]
    if not chosen:
        splits = sorted({record.split for record in records})
        raise UserError(f"no captioned record in split {split!r}; the manifest has the splits {splits}")
    if limit is None or limit >= len(chosen):
        return chosen
    keep = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))[:limit]
    return [chosen[i] for i in sorted(keep.tolist())]


@torch.inference_mode()
def reconstruct(codec: AudioCodec, waveform: torch.Tensor) -> torch.Tensor:
    """Encode a waveform (S,) to mean latents and decode it again: (S,)."""
    mean, _ = codec.encode(waveform[None]).chunk(2, dim=1)  # (1, C, H, W)
    return codec.decode(mean)[0, : len(waveform)].clamp(-1, 1)
