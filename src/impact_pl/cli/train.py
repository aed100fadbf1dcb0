"""`impact-train`: train one stage; the same command continues what was interrupted."""

import sys

from impact_pl.cli.compose import compose, format_keys, print_help_if_asked
from impact_pl.config import TrainConfig
from impact_pl.errors import user_errors

HELP = f"""
usage: impact-train experiment=NAME [group=choice ...] [key=value ...]

Train one stage of IMPACT, or the built-in codec, into runs_dir/name. The same command continues an interrupted
training (Ctrl-C, SIGTERM and SIGUSR1 save first) and does nothing once it is finished.

  impact-train experiment=pretrain model=nano trainer=cpu data.path=LATENTS name=mine/pretrain
  impact-train experiment=text model=nano trainer=cpu data.path=LATENTS name=mine/text init_from=runs/mine/pretrain

base and large have the paper's patch_size=4, for AudioLDM's latents; of the built-in codec's, which have no frequency
axis, that is four frames (0.16 s) a patch: model.patch_size=1 or 2 is finer.

groups:
  experiment   pretrain | text | distill | demo_pretrain | demo_text | codec | no_pretrain | mar_init
               head_attention | head_mse | head_discrete; the paper's rows are listed in docs/recipes.md
  model        tiny | nano | base | large | 3b
  trainer      cpu | gpu | ddp | fsdp2 | deepspeed
  data         latents

init_from: a run directory, checkpoint or model folder of the stage before, or mar:FILE (a MAR image checkpoint).
The run directory gets config.yaml, metrics.csv, TensorBoard events, checkpoints/last.ckpt and, at the end, model/.

keys and defaults (an experiment sets some of them):
{format_keys(TrainConfig)}
"""


@user_errors
def main(argv: list[str] | None = None) -> None:
    """Entry point of ``impact-train``."""
    argv = sys.argv[1:] if argv is None else argv
    print_help_if_asked(argv, HELP)
    config = compose("train", TrainConfig, argv)
    if config.stage == "codec":
        from impact_pl.training.codec import train_codec

        sys.exit(train_codec(config))
    from impact_pl.training.fit import train  # imports lightning: --help and a misspelt key should not wait for it

    sys.exit(train(config))


if __name__ == "__main__":
    main()
