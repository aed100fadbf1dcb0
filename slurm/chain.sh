#!/usr/bin/env bash
# Submit the full pipeline as four dependent jobs: precompute (array) -> pretrain -> text -> evaluate.
#   bash slurm/chain.sh manifest=data/mine/manifest.jsonl name=mine [model=nano ...] [--dry-run]
# Latents go to runs/NAME/latents, models to runs/NAME/{pretrain,text}, sounds and metrics to runs/NAME, or below another
# runs_dir=DIR. Other arguments apply to both training runs; with the prefix precompute., pretrain., text. or evaluate. they
# apply to that job only:
#   precompute.clip_seconds=5.12 pretrain.experiment=demo_pretrain text.experiment=demo_text evaluate.iterations=32
# Nodes, GPUs and the number of array tasks are set in env.sh. A failed job stops the later ones; the same command then
# continues without repeating finished work.
set -eo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source slurm/env.sh
set -u # after env.sh, because module systems and conda read unset variables

manifest='' name='' runs_dir=runs dry_run=''
precompute=() pretrain=() text=() evaluate=()
for argument in "$@"; do
    case $argument in
        --dry-run) dry_run=yes ;;
        manifest=* | name=* | runs_dir=*) declare "$argument" ;;
        precompute.*=*) precompute+=("${argument#*.}") ;;
        pretrain.*=*) pretrain+=("${argument#*.}") ;;
        text.*=*) text+=("${argument#*.}") ;;
        evaluate.*=*) evaluate+=("${argument#*.}") ;;
        *=*) pretrain+=("$argument") text+=("$argument") ;;
        *) echo "error: $argument: expected KEY=VALUE or --dry-run" >&2 && exit 2 ;;
    esac
done
[[ "${pretrain[*]}" == *"experiment="* ]] || pretrain+=(experiment=pretrain)
[[ "${text[*]}" == *"experiment="* ]] || text+=(experiment=text)
[[ -n $manifest && -n $name && -n $runs_dir ]] ||
    { echo "error: chain.sh manifest=FILE name=NAME [runs_dir=DIR] [KEY=VALUE ...] [--dry-run]" >&2 && exit 2; }
[[ -f $manifest ]] || { echo "error: manifest=$manifest: no such file" >&2 && exit 2; }

previous=''
submit() { # submit NAME SBATCH_ARGUMENTS...: run after the previous job has succeeded
    local label=$1 command=(sbatch --parsable --kill-on-invalid-dep=yes --job-name="$name/$1")
    shift
    [[ -z $previous ]] || command+=(--dependency="afterok:$previous")
    command+=("$@")
    if [[ -n $dry_run ]]; then
        echo "${command[*]}"
        previous="<$label>"
    else
        previous=$("${command[@]}")
        previous=${previous%%;*} # on a federation, strip the cluster's name
        echo "$label: job $previous"
    fi
}

run=$runs_dir/$name
data=(data.path="$run/latents" runs_dir="$runs_dir")
submit precompute "${PRECOMPUTE_OPTIONS[@]}" slurm/precompute.sh manifest="$manifest" out="$run/latents" "${precompute[@]}"
submit pretrain "${TRAIN_OPTIONS[@]}" slurm/train.sh "${data[@]}" "${pretrain[@]}" name="$name/pretrain"
submit text "${TRAIN_OPTIONS[@]}" slurm/train.sh "${data[@]}" "${text[@]}" init_from="$run/pretrain" name="$name/text"
submit evaluate "${EVALUATE_OPTIONS[@]}" slurm/evaluate.sh manifest="$manifest" model="$run/text/model" out="$run" "${evaluate[@]}"
