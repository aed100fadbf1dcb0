# What differs from site to site. chain.sh reads this file where you submit, every job on the node that runs it.
# shellcheck shell=bash disable=SC2034  # the scripts of this folder use what is set here

# Account, partition and the like are options of sbatch; it reads them from the environment too:
# export SBATCH_ACCOUNT=... SBATCH_PARTITION=... SBATCH_TIMELIMIT=1-00:00:00
# export SBATCH_SIGNAL=USR1@600   # where a step and a checkpoint together may take longer than three minutes

# What chain.sh asks for, job by job (a job that you submit yourself takes the same as options of sbatch).
# One task a device: two nodes with four GPUs each are --nodes=2 --ntasks-per-node=4 --gpus-per-node=4.
# GPUs that are bound to tasks (--gpus-per-task) hide each other: ask for them by node.
PRECOMPUTE_OPTIONS=(--array=0-3 --cpus-per-task=2)
TRAIN_OPTIONS=(--nodes=1 --ntasks-per-node=1 --cpus-per-task=4)
EVALUATE_OPTIONS=(--cpus-per-task=4)

# module load cuda/13.0
# export HF_HOME=/scratch/$USER/huggingface     # caches on a fast file system

# Node-local scratch: copy shards there when a job starts, and submit with data.path=/scratch/...; without it jobs read
# the shared file system. What is there already is not copied again.
# [[ -z ${SLURM_JOB_ID:-} ]] || srun --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1 \
#     rsync -a latents/ "/scratch/$USER/latents/"   # once a node

# A container: its command line, put before every command that a job runs (else an empty list). The job script itself
# stays outside, so the container needs no SLURM.
CONTAINER=()
# CONTAINER=(apptainer exec --nv --bind "$PWD" impact.sif)

# Python, where there is no container: the virtual environment that `make setup` makes.
VENV=${VENV:-.venv}
# shellcheck source=/dev/null
[[ ! -f $VENV/bin/activate ]] || source "$VENV/bin/activate"
