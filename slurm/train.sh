#!/usr/bin/env bash
# Train one stage as a SLURM job on any number of nodes; all arguments go to impact train:
#   sbatch slurm/train.sh experiment=pretrain data.path=latents name=big/pretrain
#   sbatch --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 slurm/train.sh trainer=ddp ...   # one task per device
# Three minutes before the time limit SLURM sends SIGUSR1, and so does `scancel --signal=USR1 JOB`: the training saves,
# and the job is requeued and continues. The same happens on preemption or a node failure. `scancel JOB` saves and ends the
# job if saving takes no longer than the site's KillWait (30 s); `scancel --signal=TERM JOB` sets no time limit. The same
# sbatch line continues.
#SBATCH --job-name=impact-train
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=USR1@180
#SBATCH --ntasks-per-node=1
source "${SLURM_SUBMIT_DIR:?this is a job script: sbatch slurm/train.sh ...}/slurm/job.sh"

# Block signals until the training can handle them (env: coreutils 8.31), or else ignore them; neither kills it.
hold=(env "--block-signal=USR1,TERM")
"${hold[@]}" true 2> /dev/null || hold=(bash -c 'trap "" USR1 TERM; exec "$@"' hold)

step "${hold[@]}" "${CONTAINER[@]}" impact train "$@" \
    trainer.devices="${SLURM_NTASKS_PER_NODE:-1}" trainer.num_nodes="$SLURM_NNODES"
