# What differs from site to site; every script of this folder sources this file on the node that runs it.
# sbatch reads its own settings from the environment: set SBATCH_ACCOUNT, SBATCH_PARTITION, SBATCH_TIMELIMIT, SBATCH_GPUS
# there, or give them as options (sbatch --account=... slurm/train.sh ...).
# shellcheck shell=bash

# module load cuda/13.0                      # if your site uses modules
# export HF_HOME=/scratch/$USER/huggingface   # caches on a fast file system
VENV=${VENV:-.venv}
# shellcheck source=/dev/null
source "$VENV/bin/activate"
