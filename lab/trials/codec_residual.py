"""`python -m lab.trials.codec_residual`: give a built-in codec a residual to draw, fitted to recordings.

Latents, identity and decoder stay what they are.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from impact_pl.codecs.builtin import BuiltinCodec
from impact_pl.codecs.registry import load_codec
from impact_pl.data.clips import load_clips, to_float
from impact_pl.errors import UserError, user_errors
from impact_pl.training.codec import MAX_FIT_SECONDS


def with_residual(codec: BuiltinCodec, manifest: Path) -> BuiltinCodec:
    """Copy a codec, with the residual of all directions that its projection drops, fitted to the training records."""
    clips, _ = load_clips(str(manifest), codec.sample_rate)
    drawing = BuiltinCodec(replace(codec.spec, residual_channels=codec.pca_mean.numel() - codec.latent_channels))
    drawing.load_state_dict(codec.state_dict(), strict=False)
    drawing.fit_residual([to_float(clip[: MAX_FIT_SECONDS * codec.sample_rate]) for clip in clips])
    return drawing


@user_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lab.trials.codec_residual", description=__doc__)
    parser.add_argument("--manifest", type=Path, required=True, help="recordings; split train is used")
    parser.add_argument("--codec", default="builtin", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write the new codec")
    args = parser.parse_args(argv)
    codec = load_codec(args.codec)
    if not isinstance(codec, BuiltinCodec):
        raise UserError(f"--codec {args.codec}: only a built-in codec has a residual")
    with_residual(codec, args.manifest).save_pretrained(args.out)


if __name__ == "__main__":
    main()
