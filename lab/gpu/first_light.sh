#!/usr/bin/env bash
# First run on a GPU, in at most eight minutes: the gpu tests, then speed, memory and profiles in one table.
#   [DEVICE=cuda] [OUT=runs/first_light] [PYTHON=.venv/bin/python] bash lab/gpu/first_light.sh
# DEVICE=cpu tries every part with a tiny model. $OUT/first_light.md is written after every row.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec timeout 480 "${PYTHON:-.venv/bin/python}" -m lab.gpu.first_light \
  --device "${DEVICE:-cuda}" --out "${OUT:-runs/first_light}" "$@"
