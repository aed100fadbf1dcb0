# What the jobs of this folder have in common; each sources it in its first lines.
# shellcheck shell=bash
set -eo pipefail
cd "${SLURM_SUBMIT_DIR:?this is a job script: sbatch slurm/....sh}"
source slurm/env.sh
set -u # only now: scripts of module systems and conda read variables that are not set

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # srun does not inherit it
trap : USR1 TERM                                    # the steps answer signals; this shell waits for their end

WARNED=138  # exit code of a training that has saved after SIGUSR1, and of any other program that it has ended
STALLED=142 # of a training that made no step for trainer.stall_minutes; its log says where it stood
MAX_RESTARTS=10 # of a job, for whatever reason, after which a stall ends it: it may stall always

# step COMMAND...: run it in every task. A broken task ends them all, and the job ends with srun's exit code; but the job
# is put back into the queue when a warning (time limit, preemption) has stopped the step, and when SLURM preempts it
# with SIGTERM alone: a step that a signal ends early in the grace time would otherwise count as failed. So it is when the
# step stood still. A job that has failed, or that is cancelled while it saves, is not.
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
    # A cancelled job is not RUNNING any more, and requeueing would revive it. SLURM may keep PreemptTime when it
    # requeues, hence the exit code comes first.
    [[ $job == *JobState=RUNNING* ]] && { ((code == WARNED || code == STALLED)) || [[ $job == *PreemptTime=[0-9]* ]]; }
}
