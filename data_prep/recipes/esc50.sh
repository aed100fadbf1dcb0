#!/usr/bin/env bash
# ESC-50 -> latent shards, with the category's name as the caption; folds 1 to 3 are the training.
#
#   bash data_prep/recipes/esc50.sh FOLDER OUT [key=value ...]
#
# FOLDER is the unpacked ESC-50-master: meta/esc50.csv and audio/.
# Keys are those of `impact precompute`, such as codec=audioldm:CHECKPOINT text_encoder=t5:FOLDER device=cuda.
set -euo pipefail
folder=$1 out=$2
shift 2

impact data esc50 --csv "$folder/meta/esc50.csv" --audio "$folder/audio" --valid-fold 4 --test-fold 5 --label-captions \
    --out "$out/manifest.jsonl"
impact precompute manifest="$out/manifest.jsonl" out="$out/latents" clip_seconds=5.12 "$@"
impact verify "$out/latents" --manifest "$out/manifest.jsonl"
