#!/usr/bin/env bash
# Evaluation as a SLURM job; every argument goes to impact-evaluate:
#   sbatch slurm/evaluate.sh --generated out/ --reference data/mine/manifest.jsonl --reference-split valid --out metrics.json
#SBATCH --job-name=impact-evaluate
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?this is a job script: sbatch slurm/evaluate.sh ...}"
source slurm/env.sh
exec srun --ntasks=1 impact-evaluate "$@"
