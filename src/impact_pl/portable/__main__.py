"""Make or edit a sound from an exported folder: ``python -m impact_pl.portable FOLDER "a dog barks" -o dog.wav``."""

import argparse
import io
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import soundfile

from impact_pl.config import PRESETS
from impact_pl.errors import UserError, user_errors
from impact_pl.partial import write_whole
from impact_pl.portable.edit import replace_region
from impact_pl.portable.runner import Runner

OPTIONS: dict[str, tuple[str, type]] = {  # those of `impact generate` -> field of DecodingConfig, and its type
    "--iterations": ("num_iterations", int),
    "--diffusion-steps": ("num_diffusion_steps", int),
    "--final-diffusion-steps": ("final_diffusion_steps", int),
    "--guidance": ("guidance_scale", float),
    "--temperature": ("temperature", float),
}
EXAMPLES = """
examples:
  impact export builtin folder --onnx
  python -m impact_pl.portable folder "a dog barks" -o dog.wav
  python -m impact_pl.portable folder "a rooster crows" --edit dog.wav --replace 1.2:2.4 -o edited.wav
"""


class Parser(argparse.ArgumentParser):
    """Argument parser that reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (`{self.prog} --help` lists the options)")


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m impact_pl.portable",
        description="Make or edit a sound with onnxruntime, without PyTorch.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("folder", type=Path, help="folder that `impact export MODEL FOLDER --onnx` wrote")
    add("caption", help="what is to be heard")
    add("-o", "--out", type=Path, required=True, help="the .wav file to write")
    add("--duration", type=float, metavar="SECONDS", help="default: that of the training clips")
    add("--seed", type=int, default=0, help="default: 0")
    add("--negative", metavar="CAPTION", help="caption that guidance leads away from")
    add("--edit", type=Path, metavar="SOUND", help="change this sound instead of making a new one")
    add("--replace", metavar="START:END", help="with --edit: the seconds to replace")
    add("--preset", choices=PRESETS, default="exact", help="default: exact")
    for option, (field, kind) in OPTIONS.items():
        add(option, dest=field, type=kind, help="default: the preset's")
    return parser


@user_errors
def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    arguments = build_parser().parse_args(argv)
    if (arguments.edit is None) != (arguments.replace is None):
        raise UserError("--edit and --replace belong together: give the sound, and START:END in seconds")
    if arguments.out.suffix.lower() != ".wav":
        raise UserError(f"{arguments.out}: choose a name that ends in .wav")
    if arguments.edit is not None and (arguments.negative is not None or arguments.duration is not None):
        raise UserError("--negative and --duration are for new sounds: leave them out with --edit")
    region = None if arguments.replace is None else parse_region(arguments.replace)
    runner = Runner(arguments.folder)
    values = {field: getattr(arguments, field) for field, _ in OPTIONS.values()}
    given = {field: value for field, value in values.items() if value is not None}
    decoding = runner.decoding(arguments.preset, **given)
    if region is None:
        sound = runner.generate(
            *(arguments.caption, arguments.duration, arguments.seed, decoding, arguments.negative), report
        )
    else:
        original = read_sound(arguments.edit, runner.config.sample_rate)
        sound = replace_region(runner, original, *region, arguments.caption, arguments.seed, decoding, report)
    encoded = io.BytesIO()
    soundfile.write(encoded, as_integers(sound), runner.config.sample_rate, format="WAV", subtype="PCM_16")
    write_whole(arguments.out, encoded.getvalue())
    print(f"wrote {arguments.out}: {len(sound) / runner.config.sample_rate:.2f} s")


def parse_region(text: str) -> tuple[float, float]:
    """Parse START:END.

    Raises:
        UserError: It is something else.
    """
    start, _, end = text.partition(":")
    try:
        return float(start), float(end)
    except ValueError:
        raise UserError(f"--replace {text}: write START:END in seconds, such as 1.2:2.4") from None


def read_sound(path: Path, sample_rate: int) -> np.ndarray:
    """Read a mono sound (S,) at the model's sample rate.

    Raises:
        UserError: It is not audio, or has another rate or more channels.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such audio file")
    try:
        samples, rate = soundfile.read(path, dtype="float64", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise UserError(f"{path}: cannot be read as audio ({error.error_string})") from error
    if rate != sample_rate or samples.shape[1] != 1:
        raise UserError(
            f"{path}: has {samples.shape[1]} channels at {rate} Hz, but mono at {sample_rate} Hz is edited here: "
            "convert it, or use `impact edit`"
        )
    if not len(samples) or not np.isfinite(samples).all():
        raise UserError(f"{path}: holds no samples, or NaN or infinite ones")
    return samples[:, 0]


def as_integers(sound: np.ndarray) -> np.ndarray:
    """Round samples to 16 bits, the inverse of reading."""
    return np.clip(np.rint(sound * 32768), -32768, 32767).astype(np.int16)


def report(iteration: int, total: int) -> None:
    """Show the progress on a terminal."""
    if sys.stderr.isatty():
        print(f"\r{iteration}/{total} iterations", end="\n" if iteration == total else "", file=sys.stderr)


if __name__ == "__main__":
    main()
