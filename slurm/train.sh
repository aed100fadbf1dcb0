#!/usr/bin/env bash
# One stage of training as a SLURM job; every argument goes to impact-train:
#   sbatch slurm/train.sh experiment=pretrain data.path=latents name=big/pretrain
#   sbatch --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 slurm/train.sh trainer=ddp trainer.devices=4 trainer.num_nodes=2 ...
# One task a device. At the time limit SLURM sends SIGTERM: the training saves and ends; the same sbatch line continues it.
#SBATCH --job-name=impact-train
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?this is a job script: sbatch slurm/train.sh ...}"
source slurm/env.sh
exec srun impact-train "$@" # the job's exit code is srun's
