#!/usr/bin/env bash
# FSD50K -> latent shards, with the names of the labels as the caption.
#
#   bash data_prep/recipes/fsd50k.sh FOLDER OUT [key=value ...]
#
# FOLDER has FSD50K.ground_truth/, FSD50K.metadata/, FSD50K.dev_audio/ and FSD50K.eval_audio/ as published. Clips last
# 0.3 to 30 s: longer ones are cut, shorter ones repeated.
# Keys are those of `impact precompute`, such as codec=audioldm:CHECKPOINT text_encoder=t5:FOLDER device=cuda.
set -euo pipefail
folder=$1 out=$2
shift 2

impact data fsd50k --csv "$folder"/FSD50K.ground_truth/{dev,eval}.csv --audio "$folder" --label-captions \
    --info "$folder"/FSD50K.metadata/{dev,eval}_clips_info_FSD50K.json --out "$out/manifest.jsonl"
impact precompute manifest="$out/manifest.jsonl" out="$out/latents" clip_seconds=10.24 padding=repeat "$@"
impact verify "$out/latents" --manifest "$out/manifest.jsonl"
