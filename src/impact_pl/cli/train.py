"""`impact train`: train one stage. The same command resumes an interrupted run."""

import sys
import textwrap

from impact_pl.cli.compose import (
    compose,
    format_groups,
    format_keys,
    print_config,
    print_help_if_asked,
    read_groups,
    take_flag,
)
from impact_pl.config import TrainConfig
from impact_pl.errors import CONTINUES, user_errors

HELP = """
usage: impact train experiment=NAME [group=choice ...] [key=value ...]
       impact train --cfg ...      print the composed configuration and exit

Train one stage of IMPACT, or the built-in codec, into runs_dir/name. The same command continues an interrupted
training (Ctrl-C, SIGTERM and SIGUSR1 save a checkpoint first) and does nothing once it is finished.

  impact train experiment=pretrain model=nano trainer=cpu data.path=LATENTS name=mine/pretrain
  impact train experiment=text model=nano trainer=cpu data.path=LATENTS name=mine/text init_from=runs/mine/pretrain

base and large use the paper's patch_size=4, for AudioLDM's latents. The built-in codec's latents have no frequency
axis, so this means four frames (0.16 s) per patch; model.patch_size=1 or 2 is finer.

groups (an experiment chooses some of them; the paper's rows are listed in docs/recipes.md):
{groups}

init_from: a run directory, checkpoint or model folder of the previous stage, or mar:FILE (a MAR image checkpoint).
The run directory gets config.yaml, metrics.csv, TensorBoard events, checkpoints/last.ckpt and, at the end, model/.

keys and defaults (an experiment sets some of them; --cfg shows the result):
{keys}
"""


def help_text() -> str:
    groups = "\n".join(
        textwrap.fill(line, 118, subsequent_indent=" " * 15, break_on_hyphens=False)
        for line in format_groups("train").splitlines()
    )
    return HELP.format(groups=groups, keys=format_keys(TrainConfig, leave_out=tuple(read_groups("train"))))


@user_errors(interrupted=CONTINUES)
def main(argv: list[str] | None = None) -> None:
    """Run ``impact train``."""
    argv = sys.argv[1:] if argv is None else argv
    print_help_if_asked(argv, help_text())
    is_shown, overrides = take_flag(argv, "--cfg", "job")
    config = compose("train", TrainConfig, overrides)
    if is_shown:
        print_config(config)
        return
    from impact_pl.training.fit import train  # imports lightning; --help and a misspelt key should respond at once

    sys.exit(train(config).exit_code)
