"""`impact precompute`: encode the sounds of a manifest into shards of latents and text features."""

import signal
import sys

from impact_pl.cli.compose import compose, format_keys, print_config, print_help_if_asked, take_flag
from impact_pl.config import PrecomputeConfig
from impact_pl.errors import UserError, user_errors

KEPT = "finished shards are kept; the same command continues."
HELP = """
usage: impact precompute manifest=FILE out=FOLDER [key=value ...]
       impact precompute --cfg ...      print the configuration, and do nothing else

Encode every sound of a manifest once, before training: codec latents and caption features, in WebDataset shards.
Recordings longer than clip_seconds are cut into segments, shorter ones padded with silence. padding=repeat repeats
them as often as they fit, which training on short effects needs. Files that cannot be used (unreadable, silent, too
short) are listed with the reason in FOLDER/rejected.jsonl. The same command continues an interrupted run and does
nothing once it is finished; `impact verify FOLDER` reads everything again and reports damage.

  impact precompute manifest=data/builtin/manifest.jsonl out=latents clip_seconds=5.12
  impact precompute manifest=audioset.jsonl out=latents text_encoder=none batch_size=64

workers=N writes shards in N processes. Tasks of a SLURM array each write their share (task=I num_tasks=N does the same
elsewhere), and the last one writes the index. The shards have the same bytes however the work is divided.

`impact data SET` makes manifests; `impact data --help` lists the sets.

keys and defaults:
{keys}

codec: builtin; a folder written by impact train experiment=codec; audioldm:FOLDER (vae/ and vocoder/ in it).
text_encoder: minilm; t5:FOLDER; clap:FOLDER; laion_clap:FILE; several joined with +, such as the paper's
laion_clap:FILE+t5:FOLDER; or none (stage 1, or captions encoded during training: data.text_encoder).
A FOLDER may be hub:ID, a repository on the Hugging Face hub, such as t5:hub:google/flan-t5-large.
clip_seconds: a multiple of a latent frame of the codec. samples_per_shard: records that share one tar.
device: auto (cuda if available, else mps, else cpu), cpu, cuda, cuda:1, ...
"""


@user_errors(interrupted=f"interrupted: {KEPT}")
def main(argv: list[str] | None = None) -> None:
    """Run ``impact precompute``."""
    argv = sys.argv[1:] if argv is None else argv
    print_help_if_asked(argv, HELP.format(keys=format_keys(PrecomputeConfig)))
    is_shown, overrides = take_flag(argv, "--cfg", "job")
    config = compose("precompute", PrecomputeConfig, overrides)
    if is_shown:
        print_config(config)
        return
    for key in ("manifest", "out"):
        if not getattr(config, key):
            raise UserError(f"{key} is missing: impact precompute manifest=FILE out=FOLDER (see --help)")
    from impact_pl.data.manifest import read_manifest  # late: --help and a misspelt key respond at once

    read_manifest(config.manifest)  # reports its errors before anything is loaded
    from impact_pl.precompute.precompute import Precomputer, load_models

    before = signal.signal(signal.SIGTERM, _stop)
    try:
        Precomputer(config, *load_models(config)).run()
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(*_: object) -> None:
    """Handle SIGTERM: say that finished shards are kept, and exit."""
    print(f"stopped: {KEPT}", file=sys.stderr)
    sys.exit(128 + signal.SIGTERM)
