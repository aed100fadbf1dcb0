#!/usr/bin/env bash
# A throw-away SLURM cluster of two emulated nodes on this machine; needs root and the packages slurmctld, slurmd,
# slurm-client and munge. `export SLURM_CONF=DIR/slurm.conf`, then sbatch, squeue, ... as on any cluster.
#   cluster.sh start DIR | stop DIR | start-node DIR NODE | crash-node DIR NODE
# The partition `high` preempts `low`. A crashed node loses slurmd and every process of its jobs at once.
set -euo pipefail
command=${1:?start, stop, start-node or crash-node}
dir=$(realpath -m "${2:?folder of its state}")
node=${3:-}
export SLURM_CONF=$dir/slurm.conf

write_configuration() {
    local host
    host=$(hostname -s)
    cat > "$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${PORT:-17000}
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$dir/munge.sock,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=512
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SlurmdTimeout=10
ReturnToService=2
JobRequeue=1
KillWait=10
MinJobAge=3600
PropagateResourceLimits=NONE
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
${EXTRA:-}
NodeName=node[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((${PORT:-17000} + 1))-$((${PORT:-17000} + 2))] CPUs=4 RealMemory=8192
PartitionName=low Nodes=node[1-2] Default=YES MaxTime=1:00:00 PriorityTier=1 GraceTime=${GRACE:-30}
PartitionName=high Nodes=node[1-2] MaxTime=1:00:00 PriorityTier=10 PreemptMode=OFF
CONF
    printf '127.0.0.1 localhost %s\n127.0.1.1 node1\n127.0.1.2 node2\n' "$host" > "$dir/hosts"
}

start_node() { # in an own mount and host name space: node names resolve there, and the machine's /etc/hosts stays as it is
    mkdir -p "$dir/spool/$1"
    # shellcheck disable=SC2016  # that shell expands them
    unshare --mount --uts sh -c 'mount --bind "$1" /etc/hosts && hostname "$2" && exec slurmd -N "$2"' sh "$dir/hosts" "$1"
}

start() {
    umask 022
    mkdir -p "$dir"/{state,spool,munge}
    chmod 700 "$dir/munge"
    head -c 1024 /dev/urandom > "$dir/munge/key"
    chmod 600 "$dir/munge/key"
    munged --key-file="$dir/munge/key" --socket="$dir/munge.sock" --pid-file="$dir/munged.pid" \
        --log-file="$dir/munge/munged.log" --seed-file="$dir/munge/seed"
    write_configuration
    slurmctld -c
    start_node node1
    start_node node2
    for ((i = 0; i < 300; i++)); do
        [[ $(sinfo -h -N -p low -t idle -o %N 2> /dev/null | wc -l) == 2 ]] && return 0
        sleep 0.1
    done
    echo "the cluster did not come up; its logs are in $dir" >&2
    return 1
}

crash_node() { # all that runs in the node's host name space
    local name process pids=()
    name=$(readlink "/proc/$(< "$dir/slurmd-$1.pid")/ns/uts")
    for process in /proc/[0-9]*; do
        [[ $(readlink "$process/ns/uts" || true) != "$name" ]] || pids+=("${process#/proc/}")
    done
    kill -9 "${pids[@]}"
    rm -f "$dir/slurmd-$1.pid"
}

stop() {
    local pids=() file
    timeout 10 scancel --user="$(id -un)" 2> /dev/null || true
    for ((i = 0; i < 150; i++)); do
        [[ -z $(timeout 5 squeue -h 2> /dev/null) ]] && break
        sleep 0.1
    done
    for file in "$dir"/*.pid; do
        [[ -s $file ]] && pids+=("$(< "$file")")
    done
    kill "${pids[@]}" 2> /dev/null || true
    for ((i = 0; i < 100; i++)); do
        kill -0 "${pids[@]}" 2> /dev/null || return 0
        sleep 0.1
    done
    kill -9 "${pids[@]}" 2> /dev/null || true
}

case $command in
    start) start ;;
    stop) stop ;;
    start-node) start_node "$node" ;;
    crash-node) crash_node "$node" ;;
    *) echo "unknown command $command" >&2 && exit 2 ;;
esac
