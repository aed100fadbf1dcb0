"""`impact-precompute`: a manifest of sounds -> shards of latents and text features."""

import signal
import sys

from impact_pl.cli.compose import compose, format_keys, print_help_if_asked
from impact_pl.cli.options import require_device
from impact_pl.config import PrecomputeConfig
from impact_pl.errors import UserError, user_errors

HELP = f"""
usage: impact-precompute manifest=FILE out=FOLDER [key=value ...]
       impact-precompute verify out=FOLDER [manifest=FILE] [codec=...] [text_encoder=...]

Encode every sound of a manifest once, before training: codec latents and caption features, in WebDataset shards.
Recordings longer than clip_seconds are cut into segments, shorter ones padded with silence; padding=repeat plays them
again as long as they fit, which a training on short effects needs. Files that cannot be used (unreadable, silent, too
short) are listed with the reason in FOLDER/rejected.jsonl. The same command continues an interrupted run and does
nothing once it is finished.

  impact-precompute manifest=data/builtin/manifest.jsonl out=latents clip_seconds=5.12
  impact-precompute manifest=audioset.jsonl out=latents text_encoder=none device=cuda batch_size=64

workers=N makes shards in N processes. Tasks of a SLURM array each make their share (task=I num_tasks=N does the same
elsewhere), and the last one writes the index. The shards are the same bytes however the work is shared.
verify reads everything again: it finds flipped bytes, missing, truncated and foreign files, an index that disagrees,
and shards of another codec or text encoder than the one that is here.

Manifests are made by `python -m impact_pl.datasets.NAME --help`: folder | audiocaps | wavcaps | audioset | clotho |
esc50 | fsd50k | join (several as one).

keys and defaults:
{format_keys(PrecomputeConfig)}

codec: builtin; a folder that impact-train experiment=codec wrote; audioldm:FOLDER (vae/ and vocoder/ in it).
text_encoder: minilm; t5:FOLDER; clap:FOLDER; laion_clap:FILE; several joined with +, such as the paper's
laion_clap:FILE+t5:FOLDER; or none (stage 1, or captions that are encoded while training: data.text_encoder).
A FOLDER may be hub:ID, a repository on the Hugging Face hub, such as t5:hub:google/flan-t5-large.
clip_seconds: a multiple of a latent frame of the codec. samples_per_shard: records that share one tar.
"""


@user_errors
def main(argv: list[str] | None = None) -> None:
    """Entry point of ``impact-precompute``."""
    argv = sys.argv[1:] if argv is None else argv
    print_help_if_asked(argv, HELP)
    command = argv[0] if argv and "=" not in argv[0] else ""
    if command not in ("", "verify"):
        raise UserError(f"unknown command {command!r}: impact-precompute [verify] key=value ... (--help tells more)")
    arguments = argv[1:] if command else argv
    config = compose("precompute", PrecomputeConfig, arguments)
    for key in ("out",) if command else ("manifest", "out"):
        if not getattr(config, key):
            raise UserError(f"{key} is missing: impact-precompute manifest=FILE out=FOLDER (--help tells more)")
    from impact_pl.data.manifest import read_manifest  # here and below: --help and a misspelt key should not wait

    if config.manifest:
        read_manifest(config.manifest)  # its mistakes are told before anything is loaded
    if command:
        from impact_pl.precompute.verify import verify

        verify(config, {argument.partition("=")[0] for argument in arguments})
        return
    from impact_pl.precompute.precompute import Precomputer, load_models

    require_device(config.device)
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        Precomputer(config, *load_models(config)).run()
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(*_) -> None:
    print("stopped: what was finished is kept; the same command continues.", file=sys.stderr)
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
