"""`impact-precompute`: a manifest of sounds -> shards of latents and text features."""

import sys

from impact_pl.cli.compose import compose, format_keys, print_help_if_asked
from impact_pl.cli.options import require_device
from impact_pl.config import PrecomputeConfig
from impact_pl.errors import user_errors

HELP = f"""
usage: impact-precompute manifest=FILE out=FOLDER [key=value ...]

Encode every sound of a manifest once, before training: codec latents and caption features, in WebDataset shards.
Recordings longer than clip_seconds are cut into segments, shorter ones padded with silence. Files that cannot be
used (unreadable, silent, too short) are listed with the reason in FOLDER/rejected.jsonl. The same command continues
an interrupted run and does nothing once it is finished.

  impact-precompute manifest=data/builtin/manifest.jsonl out=latents clip_seconds=5.12
  impact-precompute manifest=audioset.jsonl out=latents text_encoder=none device=cuda batch_size=64

Manifests are made by `python -m impact_pl.data_prep.NAME --help`: folder | builtin | audiocaps | wavcaps | audioset.

keys and defaults:
{format_keys(PrecomputeConfig)}

codec: builtin, or a folder that impact-train experiment=codec wrote. text_encoder: minilm, or none (stage 1 only).
clip_seconds: a multiple of a latent frame of the codec. samples_per_shard: records that share one tar.
"""


@user_errors
def main(argv: list[str] | None = None) -> None:
    """Entry point of ``impact-precompute``."""
    argv = sys.argv[1:] if argv is None else argv
    print_help_if_asked(argv, HELP)
    config = compose("precompute", PrecomputeConfig, argv)
    for key in ("manifest", "out"):
        if not getattr(config, key):
            raise ValueError(f"{key} is missing: impact-precompute manifest=FILE out=FOLDER (--help tells more)")
    from impact_pl.codec import load_codec  # here and below: --help and a misspelt key should not wait for these
    from impact_pl.data.manifest import read_manifest
    from impact_pl.data_prep.precompute_latents import Precomputer
    from impact_pl.text import load_text_encoder

    require_device(config.device)
    read_manifest(config.manifest)  # its mistakes are told before anything is loaded
    codec = load_codec(config.codec, config.device)
    has_text = config.text_encoder not in ("", "none")
    text_encoder = load_text_encoder(config.text_encoder, config.device) if has_text else None
    Precomputer(config, codec, text_encoder).run()


if __name__ == "__main__":
    main()
