#!/usr/bin/env bash
# AudioCaps -> latent shards.
#
#   bash data_prep/recipes/audiocaps.sh FOLDER OUT [key=value ...]
#
# FOLDER has train.csv, val.csv and test.csv as published, and the clips in audio/train, audio/val and audio/test.
# Keys are those of `impact precompute`, such as codec=audioldm:CHECKPOINT text_encoder=t5:FOLDER device=cuda.
set -euo pipefail
folder=$1 out=$2
shift 2

for split in train valid test; do
    name=${split/valid/val}
    impact data audiocaps --csv "$folder/$name.csv" --audio "$folder/audio/$name" --split "$split" --out "$out/$split.jsonl"
done
impact data join --manifests "$out"/{train,valid,test}.jsonl --out "$out/manifest.jsonl"
impact precompute manifest="$out/manifest.jsonl" out="$out/latents" clip_seconds=10.24 "$@"
impact verify "$out/latents" --manifest "$out/manifest.jsonl"
