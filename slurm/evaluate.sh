#!/usr/bin/env bash
# Generate sounds for the captions of a manifest's split and compute their metrics, as a SLURM job:
#   sbatch slurm/evaluate.sh model=runs/mine/text/model manifest=data/mine/manifest.jsonl split=valid out=runs/mine
# Writes out/generated/ and out/metrics.json. Any other KEY=VALUE is an option of impact generate (iterations=32).
# A minute before the time limit SIGUSR1 ends the job and it is requeued; no sound is generated twice.
#SBATCH --job-name=impact-evaluate
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=USR1@60
#SBATCH --ntasks=1
source "${SLURM_SUBMIT_DIR:?this is a job script: sbatch slurm/evaluate.sh ...}/slurm/job.sh"

model='' manifest='' split=valid out=''
options=()
for argument in "$@"; do
    case $argument in
        model=* | manifest=* | split=* | out=*) declare "$argument" ;;
        *=*) options+=("--${argument%%=*}" "${argument#*=}") ;;
        *) echo "error: $argument: expected KEY=VALUE" >&2 && exit 2 ;;
    esac
done
for name in model manifest out; do
    [[ -n ${!name} ]] || { echo "error: $name is missing: evaluate.sh model=DIR manifest=FILE out=DIR" >&2 && exit 2; }
done

step "${CONTAINER[@]}" impact generate --captions-file "$manifest" --split "$split" --model "$model" \
    --out "$out/generated" "${options[@]}"
step "${CONTAINER[@]}" impact evaluate --generated "$out/generated" --reference "$manifest" --reference-split "$split" \
    --floor "$manifest" --floor-split train --out "$out/metrics.json"
