# Site-specific settings. chain.sh reads this file on the submitting machine, every job on the node that runs it.
# shellcheck shell=bash disable=SC2034  # used by the scripts of this folder

# sbatch reads account, partition and other options from the environment:
# export SBATCH_ACCOUNT=... SBATCH_PARTITION=... SBATCH_TIMELIMIT=1-00:00:00
# export SBATCH_SIGNAL=USR1@600   # if a step and a checkpoint together may take longer than three minutes

# Resources that chain.sh requests per job (for a job that you submit yourself, pass them to sbatch).
# One task per device: two nodes with four GPUs each are --nodes=2 --ntasks-per-node=4 --gpus-per-node=4.
# Request GPUs per node: GPUs bound to tasks (--gpus-per-task) cannot see each other.
PRECOMPUTE_OPTIONS=(--array=0-3 --cpus-per-task=2)
TRAIN_OPTIONS=(--nodes=1 --ntasks-per-node=1 --cpus-per-task=4)
EVALUATE_OPTIONS=(--cpus-per-task=4)

# module load cuda/13.0
# export HF_HOME=/scratch/$USER/huggingface     # caches on a fast file system

# Node-local scratch: copy shards there when a job starts, and submit with data.path=/scratch/... . Otherwise jobs
# read from the shared file system. Existing files are not copied again.
# [[ -z ${SLURM_JOB_ID:-} ]] || srun --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1 \
#     rsync -a latents/ "/scratch/$USER/latents/"   # once per node

# Container command line, prefixed to every command that a job runs (empty: none). The job script itself runs outside,
# so the container needs no SLURM.
CONTAINER=()
# CONTAINER=(apptainer exec --nv --bind "$PWD" impact.sif)

# Python without a container: the virtual environment created by `make setup`.
VENV=${VENV:-.venv}
# shellcheck source=/dev/null
[[ ! -f $VENV/bin/activate ]] || source "$VENV/bin/activate"
