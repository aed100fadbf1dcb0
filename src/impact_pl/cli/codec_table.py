"""`python -m impact_pl.cli.codec_table --manifest M`: the figures of the built-in codec's model card, as a table.

Clips go through the codec and back, with clean latents and with Gaussian errors on them (a generator's errors look like
that), beside the control: the same latents, decoded to the mel spectrogram and played by Griffin-Lim.

Columns: FD-YAMNet to the same clips' real sounds and the mean cosine and top-1 agreement of YAMNet's embeddings and
classes (both sides dithered at -60 dB), log-mel L1 (64 bins, nepers, floored at -60 dB), and decoding time over
sounding time. The row "real" compares other real clips, as many, with these: the floor of FD at this N.
"""

import argparse
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchaudio.functional
from torch import Generator, Tensor

from impact_pl.audio import load_audio
from impact_pl.codec import load_codec
from impact_pl.codec_builtin import BuiltinCodec
from impact_pl.data.manifest import Record, read_manifest
from impact_pl.errors import user_errors
from impact_pl.evaluation.features import Features, YamNet
from impact_pl.evaluation.metrics import embedding_cosine, frechet_distance, top1_agreement

ROW = "{:<14} {:>7} {:>10} {:>8} {:>7} {:>11} {:>8}"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m impact_pl.cli.codec_table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--manifest", type=Path, required=True, nargs="+", help="manifest.jsonl, one or more")
    parser.add_argument("--split", default="valid", help="split of the clips (default: valid)")
    parser.add_argument("--floor-split", default="train", help="split of the row 'real' (default: train)")
    parser.add_argument("--ids", default="", help="only records whose id matches this regular expression")
    parser.add_argument("--limit", type=int, help="at most so many clips, drawn with the seed")
    parser.add_argument("--duration", type=float, default=10.24, help="clips are cut to so many seconds")
    parser.add_argument("--codec", default="builtin", help="codec folder (default: builtin)")
    parser.add_argument("--errors", type=float, nargs="+", default=[0, 0.1, 0.2, 0.3], help="in latent std")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-control", action="store_true", help="leave Griffin-Lim out")
    return parser


@user_errors
def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    codec = load_codec(args.codec)
    if not isinstance(codec, BuiltinCodec):
        raise ValueError(f"the table is about the built-in kind of codec; {args.codec} is another")
    yamnet = YamNet(args.threads)
    records = [record for path in args.manifest for record in read_manifest(path) if re.search(args.ids, record.id)]
    real = load(records, args.split, args.limit, args)
    reference = [yamnet(waveform) for waveform in real]
    seconds = sum(len(waveform) for waveform in real) / codec.sample_rate
    print(f"{len(real)} clips, {seconds:.0f} s; codec {args.codec}, latents {codec.identity}")
    print(ROW.format("system", "errors", "FD-YAMNet", "cosine", "top-1", "log-mel L1", "time"))
    others = [yamnet(waveform) for waveform in load(records, args.floor_split, len(real), args)]
    print(ROW.format("real", "-", f"{fd(reference, others):.1f}", "-", "-", "-", "-") + f"  (N = {len(others)})")
    systems = {"codec": codec.decode} if args.no_control else {"codec": codec.decode, "Griffin-Lim": control(codec)}
    for error in args.errors:
        for name, decode in systems.items():
            sounds, elapsed = reconstruct(codec, decode, real, error, args.seed)
            figures = compare(codec, yamnet, real, reference, sounds)
            print(ROW.format(name, f"{error:g}", *figures, f"{elapsed / seconds:.3f}"), flush=True)


def load(records: list[Record], split: str, limit: int | None, args: argparse.Namespace) -> list[Tensor]:
    """Waveforms (S_i,) of a split; at most ``limit`` of them, drawn with the seed."""
    chosen = [record for record in records if record.split == split]
    if len(chosen) < 2:
        raise ValueError(f"{len(chosen)} records of split '{split}' match: a table needs at least 2")
    if limit is not None and limit < len(chosen):
        keep = torch.randperm(len(chosen), generator=Generator().manual_seed(args.seed))[:limit]
        chosen = [chosen[i] for i in sorted(keep.tolist())]
    return [load_audio(r.path, start=r.start, duration=min(r.duration or 1e9, args.duration)) for r in chosen]


def fd(first: list[Features], second: list[Features]) -> float:
    return frechet_distance(pool(first), pool(second))


def pool(features: list[Features]) -> np.ndarray:
    """One embedding a sound (N, 1024): the mean over its patches."""
    return np.stack([feature.embeddings.mean(axis=0) for feature in features])


@torch.inference_mode()
def reconstruct(
    codec: BuiltinCodec, decode: Callable, real: list[Tensor], error: float, seed: int
) -> tuple[list[Tensor], float]:
    """Every clip (S_i,) through the codec, with errors of ``error`` latent std; and the seconds spent in ``decode``."""
    generator, elapsed, sounds = Generator().manual_seed(seed), 0.0, []
    for waveform in real:
        latents, _ = codec.encode(waveform[None]).chunk(2, dim=1)  # (1, C, H, 1)
        latents = latents + error * codec.latent_std * torch.randn(latents.shape, generator=generator)
        start = time.perf_counter()
        sound = decode(latents, generator)[0, : len(waveform)]
        elapsed += time.perf_counter() - start
        sounds.append(sound.clamp(-1, 1))
    return sounds, elapsed


def compare(codec: BuiltinCodec, yamnet: YamNet, real: list[Tensor], reference: list[Features], sounds: list[Tensor]):
    """The four figures of a row, formatted."""
    features = [yamnet(sound) for sound in sounds]
    scores = [np.stack([f.scores.mean(axis=0) for f in group]) for group in (reference, features)]
    differences = [
        (codec.mel_patches(a[None]) - codec.mel_patches(b[None])).abs() for a, b in zip(real, sounds, strict=True)
    ]
    return (
        f"{fd(reference, features):.1f}",
        f"{embedding_cosine(pool(reference), pool(features)).mean():.3f}",
        f"{top1_agreement(*scores).mean():.2f}",
        f"{torch.cat([d.flatten() for d in differences]).mean():.3f}",
    )


def control(codec: BuiltinCodec) -> Callable[[Tensor, Generator], Tensor]:
    """Griffin-Lim (60 iterations, momentum 0.99) on the mel spectrogram that the same latents hold."""
    n_fft, hop, filters = codec.spec.n_fft, codec.spec.hop, codec.log_mel.filters  # (F, K)

    def decode(latents: Tensor, generator: Generator) -> Tensor:
        mel = (codec.excess_level(codec.decode_mel(latents)) + codec.unit_noise_mel[:, None]).exp()  # (1, F, M)
        magnitude = filters.T @ (mel / filters.sum(dim=1)[:, None]) + 1e-8  # (1, K, M)
        for _ in range(100):  # non-negative least squares by multiplicative updates
            magnitude = magnitude * (filters.T @ mel) / (filters.T @ (filters @ magnitude)).clamp(min=1e-12)
        torch.manual_seed(0)  # Griffin-Lim's own first phases
        waveform = torchaudio.functional.griffinlim(
            magnitude, codec.log_mel.window, n_fft, hop, n_fft, 1.0, 60, 0.99, (mel.shape[-1] - 1) * hop, True
        )
        # Its frames are centred on multiples of the hop, the log-mel's half a hop later.
        return torch.nn.functional.pad(waveform, (hop // 2, hop // 2))

    return decode


if __name__ == "__main__":
    main()
