#!/usr/bin/env bash
# Precompute the latents of a manifest as a SLURM job; all arguments go to impact precompute. An array splits the shards:
#   sbatch --array=0-15 slurm/precompute.sh manifest=data/mine/manifest.jsonl out=data/mine/latents
# A killed job loses at most the shard it was writing; the same sbatch line continues. A minute before the time limit
# SIGUSR1 ends the job and it is requeued.
#SBATCH --job-name=impact-precompute
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=USR1@60
#SBATCH --ntasks=1
source "${SLURM_SUBMIT_DIR:?this is a job script: sbatch slurm/precompute.sh ...}/slurm/job.sh"

step "${CONTAINER[@]}" impact precompute "$@"
