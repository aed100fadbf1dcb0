#!/usr/bin/env bash
# One stage of training as a SLURM job on any number of nodes; every argument goes to impact train:
#   sbatch slurm/train.sh experiment=pretrain data.path=latents name=big/pretrain
#   sbatch --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 slurm/train.sh trainer=ddp ...   # one task a device
# Three minutes before the time limit SLURM sends SIGUSR1, and so does `scancel --signal=USR1 JOB`: the training saves,
# and the job goes back into the queue and continues. So it does when it is preempted or a node fails. `scancel JOB` saves
# and ends it, if saving takes no longer than the site's KillWait (30 s); `scancel --signal=TERM JOB` gives it all the
# time it needs. The same sbatch line continues.
#SBATCH --job-name=impact-train
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=USR1@180
#SBATCH --ntasks-per-node=1
source "${SLURM_SUBMIT_DIR:?this is a job script: sbatch slurm/train.sh ...}/slurm/job.sh"

# Signals wait until the training can answer them (env: coreutils 8.31), or are ignored as long; neither kills it.
hold=(env "--block-signal=USR1,TERM")
"${hold[@]}" true 2> /dev/null || hold=(bash -c 'trap "" USR1 TERM; exec "$@"' hold)

step "${hold[@]}" "${CONTAINER[@]}" impact train "$@" \
    trainer.devices="${SLURM_NTASKS_PER_NODE:-1}" trainer.num_nodes="$SLURM_NNODES"
