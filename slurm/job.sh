# What the jobs of this folder have in common; each sources it in its first lines.
# shellcheck shell=bash
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?this is a job script: sbatch slurm/....sh}"
source slurm/env.sh

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # srun does not inherit it
trap : USR1 TERM                                    # the steps answer signals; this shell waits for their end

SAVED_FOR_REQUEUE=138 # exit code of a training that SIGUSR1 has stopped

# step COMMAND...: run it in every task. A broken task ends them all, and the job ends with srun's exit code; but the job
# is put back into the queue when a warning (time limit, preemption) has stopped the step, and when SLURM preempts it
# with SIGTERM alone: a step that ends early in the grace time would otherwise count as failed.
step() {
    local code=0
    srun --kill-on-bad-exit=1 "$@" || code=$?
    ((code)) || return 0
    if ((code == SAVED_FOR_REQUEUE)) || is_preempted; then
        echo "$(date '+%F %T')  requeue (the step ended with exit code $code)"
        scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}" ||
            echo "cannot be requeued: submit it again, it continues where it was saved"
    fi
    exit "$code"
}

is_preempted() { # a cancelled job is not RUNNING any more, and requeueing would revive it
    local job
    job=$(scontrol show job --oneliner "$SLURM_JOB_ID") && [[ $job == *JobState=RUNNING* && $job == *PreemptTime=[0-9]* ]]
}
