# Shared code of the job scripts in this folder; each sources it in its first lines.
# shellcheck shell=bash
set -eo pipefail
cd "${SLURM_SUBMIT_DIR:?this is a job script: sbatch slurm/....sh}"
source slurm/env.sh
set -u # after env.sh, because module systems and conda read unset variables

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # srun does not inherit it
trap : USR1 TERM                                    # the steps handle signals; this shell waits for them

WARNED=138  # exit code of a run that saved after SIGUSR1, and of any other program ended by it
STALLED=142 # of a run without progress for trainer.stall_minutes; its log has the stacks
MAX_RESTARTS=10 # per job, for any reason; after that a stall fails the job, since it may recur

# step COMMAND...: run it in every task. A failed task ends them all, and the job ends with srun's exit code. The job is
# requeued if a warning signal (time limit, preemption) stopped the step, if SLURM preempts it with SIGTERM only (a step
# that ends early in the grace time would otherwise count as failed), or if the step stalled. It is not requeued if it
# failed, or was cancelled while saving.
step() {
    local code=0
    srun --kill-on-bad-exit=1 "$@" || code=$?
    ((code)) || return 0
    if is_stopped_for_requeue "$code"; then
        echo "$(date '+%F %T')  requeue (the step ended with exit code $code)"
        scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}" ||
            echo "cannot be requeued: submit it again, it continues where it was saved"
    fi
    exit "$code"
}

is_stopped_for_requeue() { # is_stopped_for_requeue EXIT_CODE
    local code=$1 job
    ((code > 128 && code <= 128 + 64)) || return 1 # no signal
    ((code != STALLED || ${SLURM_RESTART_COUNT:-0} < MAX_RESTARTS)) || return 1
    job=$(scontrol show job --oneliner "$SLURM_JOB_ID") || return 1
    # A cancelled job is no longer RUNNING, and requeueing would revive it. SLURM may keep PreemptTime across a requeue,
    # so the exit code is checked first.
    [[ $job == *JobState=RUNNING* ]] && { ((code == WARNED || code == STALLED)) || [[ $job == *PreemptTime=[0-9]* ]]; }
}
