"""The program ``impact``: dispatch to a subcommand.

Each subcommand is a module of this package with a ``main(argv)``. It is imported on use, and imports slow packages
(torch, lightning, hydra) only after parsing its arguments, so that ``--help`` responds at once.
"""

import difflib
import importlib
import io
import os
import sys

from impact_pl.errors import INTERRUPTED, USER_ERROR, flush_output

COMMANDS = {
    "generate": "make sounds from captions",
    "edit": "replace parts of a recording, extend, vary or loop it",
    "serve": "make and edit sounds on a page in the browser",
    "info": "describe a model folder",
    "data": "turn a data set's files into a manifest",
    "precompute": "encode a manifest's sounds into shards of latents",
    "verify": "check that shards are complete and undamaged",
    "tune": "make a model your own, from a folder of recordings",
    "train": "train a stage of IMPACT, or the codec's decoder",
    "export": "write a checkpoint as a model folder",
    "reconstruct": "pass a manifest's sounds through the codec",
    "evaluate": "compare generated sounds with real ones",
    "report": "write a run's sounds, metrics and losses as one page",
    "listening": "make a listening test, and summarise its ratings",
}
HELP = f"""
usage: impact COMMAND ...

Text-to-audio generation with IMPACT: masked parallel decoding over continuous latents.

{chr(10).join(f"  {name:<12} {summary}" for name, summary in COMMANDS.items())}

  impact generate "a rooster crows" -o rooster.wav
  impact COMMAND --help     what a command does, with an example
  impact --version
"""


def main(argv: list[str] | None = None) -> None:
    """Entry point of ``impact`` and of ``python -m impact_pl``."""
    argv = sys.argv[1:] if argv is None else argv
    for name in ("stdout", "stderr"):  # a daemon may have closed them, which leaves None
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    prepare_process()
    try:
        run(argv)
    except KeyboardInterrupt:  # while modules are loaded; a command says itself what it has finished
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        flush_output()


def run(argv: list[str]) -> None:
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        print(HELP.strip())
    elif name == "--version":
        from importlib.metadata import version

        print(version("impact-pl"))
    elif name in COMMANDS:
        importlib.import_module(f"impact_pl.cli.{name}").main(argv[1:])
    else:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        suggestion = f"; did you mean {near[0]}?" if near else ""
        print(f"error: there is no command {name!r}{suggestion} (`impact --help` lists them)", file=sys.stderr)
        sys.exit(USER_ERROR)


def prepare_process() -> None:
    """Configure OpenMP's waiting before torch loads it, and make stdout tolerate any character.

    By default, OpenMP's threads spin while they wait for each other. If anything else uses a core (another job on the
    node, a browser), a training step then takes up to eight times as long. Threads that sleep at once take 45 us to
    wake, in each of the diffusion head's thousands of short operations. Spinning for a few microseconds makes its loop
    1.3 times as fast, at no measurable cost on shared cores.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # CJK captions on a Latin-1 terminal; as stderr does
