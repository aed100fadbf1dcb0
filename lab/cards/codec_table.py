"""`python -m lab.cards.codec_table --manifest M`: codecs compared on recordings; the table of the model card.

Clips are encoded and decoded by each codec, with clean latents and with Gaussian errors on them, which resemble a
generator's. A control follows the built-in codec: the same latents, decoded to mel and inverted by Griffin-Lim.

Columns: numbers per second of the latents; errors, relative to the latents' overall standard deviation; FD-YAMNet and
FD-aisfx (with --aisfx) to the real sounds; mean cosine and top-1 agreement of YAMNet's embeddings and classes; YAMNet's
accuracy, if all clips have a label of ESC-10; L1 of the log-mel (64 bins) and log-STFT (three resolutions) spectrograms
in nepers, floored at -60 dB; CPU seconds of decoding per second of sound, all threads together. Networks get both sides
dithered at -60 dB. The row "real" has the accuracy of the clips themselves, and compares the same number of other real
clips with them: the real-vs-real baseline at this N.

The codec audioldm-mel:VOCODER stores AudioLDM's mel spectrogram itself, and decodes it with that vocoder.

With --precision bf16 and errors 0, codecs that decode in it get two more rows: compared with the real sounds as the
others, and with their own sounds in float32, which is the error of the precision alone. For the latter both are brought
to an RMS of 0.1 in float32: what random weights play is too faint to be heard over the dither.
"""

import argparse
import re
import time
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from impact_pl.audio import SAMPLE_RATE, fit_length, load_audio, resample
from impact_pl.cli import options
from impact_pl.codecs.audioldm import AudioLDMMel
from impact_pl.codecs.base import AudioCodec, Decode
from impact_pl.codecs.builtin import BuiltinCodec
from impact_pl.codecs.registry import load_codec
from impact_pl.codecs.vocoders import HIFIGAN, HOP, NUM_MELS, Vocoder, griffin_lim, load_vocoder
from impact_pl.data.manifest import Record, read_manifest
from impact_pl.errors import UserError, user_errors
from impact_pl.evaluation.labels import labels_of
from impact_pl.precision import PRECISIONS
from impact_pl.randomness import Generators, PositionalNoise
from lab.benchmark.subject import random_audioldm
from lab.cards.reconstruction import ReconstructionJudge
from lab.markdown import header, row


def griffin_lim_of(codec: BuiltinCodec) -> Decode:
    """Create a ``decode`` with Griffin-Lim (60 iterations, momentum 0.99) on the mel spectrogram of latents."""
    hop = codec.spec.hop

    def decode(latents: Tensor, generator: Generators | PositionalNoise | None = None) -> Tensor:
        mel = codec.excess_level(codec.decode_mel(latents)) + codec.unit_noise_mel[:, None]  # (1, F, M)
        waveform = griffin_lim(mel, codec.log_mel)
        # Its frames are centred on multiples of the hop, the log-mel's half a hop later.
        return torch.nn.functional.pad(waveform, (hop // 2, hop // 2))

    return decode


class MelCodec(AudioCodec):
    """AudioLDM's mel spectrogram as latents (B, F, M, 1), without its VAE: what a vocoder makes of the truth."""

    sample_rate, samples_per_latent, latent_channels, latent_width = SAMPLE_RATE, HOP, NUM_MELS, 1

    def __init__(self, vocoder: Vocoder) -> None:
        super().__init__()
        self.name, self.identity, self.decode_context = MEL, MEL, vocoder.context or 0
        self.mel, self.vocoder = AudioLDMMel(), vocoder

    def encode(self, waveform: Tensor) -> Tensor:
        """Compute moments (B, 2F, M, 1) with a deviation of zero."""
        mel = self.mel(fit_length(waveform, self.latent_frames(waveform.shape[-1]) * HOP)).transpose(1, 2)[..., None]
        return torch.cat([mel, torch.zeros_like(mel)], dim=1)

    def decode(self, latents: Tensor, generator: Generators | PositionalNoise | None = None) -> Tensor:
        return self.vocoder(latents[..., 0].transpose(1, 2), generator)

    def decoder_in(self, dtype: torch.dtype) -> Decode:
        reduced = self.vocoder.reduced(dtype)
        if dtype == torch.float32 or reduced is self.vocoder:
            return self.decode

        def decode(latents: Tensor, generator: Generators | PositionalNoise | None = None) -> Tensor:
            return reduced(latents[..., 0].transpose(1, 2), generator)

        return decode


MEL = "audioldm-mel"
RMS = 0.1
DIGITS = {"FD-YAMNet": 1, "FD-aisfx": 1, "cosine": 3, "top-1": 2, "accuracy": 2, "mel L1": 3, "STFT L1": 3, "CPU": 3}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab.cards.codec_table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--manifest", type=Path, required=True, nargs="+", help="manifest.jsonl, one or more")
    parser.add_argument("--split", default="valid", help="split of the clips (default: valid)")
    parser.add_argument("--floor-split", default="train", help="split of the row 'real' (default: train)")
    parser.add_argument("--ids", type=expression, default="", help="only records whose id matches this")
    parser.add_argument("--limit", type=options.positive_int, help="at most so many clips, drawn with the seed")
    parser.add_argument("--duration", type=options.seconds, default=10.24, help="clips are cut to so many seconds")
    parser.add_argument(
        "--codec",
        nargs="+",
        default=["builtin"],
        help="codec names or folders, random-audioldm[:VOCODER], audioldm-mel:VOCODER, or LABEL=those",
    )
    parser.add_argument("--errors", type=float, nargs="+", default=[0, 0.1, 0.2, 0.3], help="in latent std")
    parser.add_argument("--aisfx", type=Path, help="aisfx/models/checkpoint.pth of the PyPI package aisfx 0.1.2")
    parser.add_argument("--seed", type=options.seed, default=0)
    parser.add_argument("--threads", type=options.positive_int, default=2)
    parser.add_argument("--precision", choices=list(PRECISIONS), default="32-true", help="(default: %(default)s)")
    parser.add_argument("--no-control", action="store_true", help="leave Griffin-Lim out")
    return parser


def expression(text: str) -> re.Pattern[str]:
    """Parse a regular expression."""
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from None


@user_errors
def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    named = [(label, name or label) for label, _, name in (argument.partition("=") for argument in args.codec)]
    codecs = {label: find_codec(name) for label, name in named}
    records = [record for path in args.manifest for record in read_manifest(path) if args.ids.search(record.id)]
    chosen = choose(records, args.split, args.limit, args.seed)
    real = load(chosen, args.duration)
    others = load(choose(records, args.floor_split, len(real), args.seed), args.duration)
    if len(others) < len(real):
        raise UserError(
            f"split '{args.floor_split}' has {len(others)} clips for the row 'real', which compares as many as "
            f"'{args.split}' has, {len(real)}: give --limit {len(others)}, or another --floor-split"
        )
    labels = list(labels_of({record.id: record for record in chosen}).values())
    judge = ReconstructionJudge(real, args.threads, args.aisfx, labels if len(labels) == len(real) else [])
    print(f"{len(real)} clips, {seconds(real):.0f} s; {torch.get_num_threads()} threads")
    for label, codec in codecs.items():
        print(f"{label}: {codec.name}, latents {codec.identity}")
    is_shown = {"FD-aisfx": args.aisfx, "accuracy": judge.labels}
    columns = [name for name in DIGITS if is_shown.get(name, True)]
    print(header(["system", "numbers/s", "errors", *columns]))
    floor = judge.distances(judge.scorers(others)) | judge.accuracy(judge.heard)
    print(row(["real", "-", "-", *(show(floor, name) for name in columns)]), flush=True)
    systems: list[tuple[str, Decode, AudioCodec]] = [(label, codec.decode, codec) for label, codec in codecs.items()]
    builtin = [(label, codec) for label, codec in codecs.items() if isinstance(codec, BuiltinCodec)]
    if not args.no_control:  # once for codecs of equal latents, with the first one's label
        mels = {codec.identity: (label, codec) for label, codec in reversed(builtin)}
        systems += [(f"{label}, Griffin-Lim", griffin_lim_of(codec), codec) for label, codec in mels.values()]
    latents = {codec.identity: [encode(codec, waveform) for waveform in real] for codec in codecs.values()}
    exact: dict[str, list[Tensor]] = {}
    for label, system, codec in systems:
        for error in args.errors:
            sounds, speed = reconstruct(codec, system, latents[codec.identity], real, error, args.seed)
            if error == 0:
                exact[label] = sounds
            figures = {**judge(sounds), "CPU": speed}
            rate = codec.latent_channels * codec.latent_width * codec.sample_rate / codec.samples_per_latent
            print(row([label, f"{rate:.0f}", f"{error:g}", *(show(figures, name) for name in columns)]), flush=True)
    for label, codec in codecs.items():
        decode = codec.decoder_in(PRECISIONS[args.precision])
        if decode == codec.decode or label not in exact:
            continue
        sounds, speed = reconstruct(codec, decode, latents[codec.identity], real, 0.0, args.seed)
        error_of_precision = rounding(exact[label], sounds, args)
        for against, figures in (("", judge(sounds)), (" against float32", error_of_precision)):
            figures = {**figures, "CPU": speed}
            name = f"{label}, {args.precision}{against}"
            print(row([name, "-", "0", *(show(figures, name) for name in columns)]), flush=True)


def rounding(exact: list[Tensor], sounds: list[Tensor], args: argparse.Namespace) -> dict[str, float]:
    """Compare sounds of a reduced precision with those of float32, both with the gain that brings these to RMS."""
    gains = [RMS / sound.square().mean().sqrt().clamp(min=1e-9) for sound in exact]
    exact, sounds = ([gain * x for gain, x in zip(gains, each, strict=True)] for each in (exact, sounds))
    return ReconstructionJudge(exact, args.threads, args.aisfx)(sounds)


def find_codec(name: str) -> AudioCodec:
    """Load a codec; ``random-audioldm`` is AudioLDM's in its published size, with random weights.

    So is the HiFi-GAN of ``audioldm-mel:hifigan``. Of these, only the times mean something.
    """
    kind, _, vocoder = name.partition(":")
    if kind == "random-audioldm":
        return random_audioldm(torch.device("cpu"), vocoder or None)
    if kind != MEL:
        return load_codec(name)
    codec: Any = find_codec("random-audioldm") if vocoder == HIFIGAN else None
    return MelCodec(codec.vocoder if codec else load_vocoder(vocoder, Path())).eval()


def show(figures: dict[str, float], name: str) -> str:
    return f"{figures[name]:.{DIGITS[name]}f}" if name in figures else "-"


def choose(records: list[Record], split: str, limit: int | None, seed: int) -> list[Record]:
    """Choose the records of a split, at most ``limit``, drawn with the seed."""
    chosen = [record for record in records if record.split == split]
    if len(chosen) < 2:
        raise UserError(f"{len(chosen)} records of split '{split}' match: a table needs at least 2")
    if limit is not None and limit < len(chosen):
        keep = torch.randperm(len(chosen), generator=Generator().manual_seed(seed))[:limit]
        chosen = [chosen[i] for i in sorted(keep.tolist())]
    return chosen


def load(records: list[Record], duration: float) -> list[Tensor]:
    """Load waveforms (S_i,), cut to ``duration`` seconds."""
    return [load_audio(r.path, start=r.start, duration=min(r.duration or 1e9, duration)) for r in records]


def seconds(waveforms: list[Tensor]) -> float:
    return sum(map(len, waveforms)) / SAMPLE_RATE


@torch.inference_mode()
def reconstruct(
    codec: AudioCodec, decode: Decode, latents: list[Tensor], real: list[Tensor], error: float, seed: int
) -> tuple[list[Tensor], float]:
    """Reconstruct every clip (S_i,) with latent errors of ``error`` std; returns decoding time over duration too."""
    channels = torch.cat([z[0].transpose(1, 2).flatten(0, 1) for z in latents], dim=1)  # (C W, all H)
    overall = channels.var(dim=1).mean().sqrt()
    generator, elapsed, sounds = Generator().manual_seed(seed), 0.0, []
    for waveform, clean in zip(real, latents, strict=True):
        noisy = clean + error * overall * torch.randn(clean.shape, generator=generator)
        start = time.process_time()  # of all threads, unaffected by other processes
        sound = decode(noisy, generator)[0]
        elapsed += time.process_time() - start
        sounds.append(resample(sound, codec.sample_rate, SAMPLE_RATE)[: len(waveform)].clamp(-1, 1))
    return sounds, elapsed / seconds(real)


@torch.inference_mode()
def encode(codec: AudioCodec, waveform: Tensor) -> Tensor:
    """Encode a waveform (S,) at 16 kHz to the mean (1, C, H, W) of its latents."""
    return codec.encode(resample(waveform, SAMPLE_RATE, codec.sample_rate)[None]).chunk(2, dim=1)[0]


if __name__ == "__main__":
    main()
