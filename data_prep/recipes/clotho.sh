#!/usr/bin/env bash
# Clotho -> latent shards.
#
#   bash data_prep/recipes/clotho.sh FOLDER OUT [key=value ...]
#
# FOLDER has clotho_captions_development.csv, ..._validation.csv and ..._evaluation.csv as published, and the clips in
# development/, validation/ and evaluation/. Each of a clip's five captions makes a record; clips last 15 to 30 s and are
# cut into segments that share the caption.
# Keys are those of `impact precompute`, such as codec=audioldm:CHECKPOINT text_encoder=t5:FOLDER device=cuda.
set -euo pipefail
folder=$1 out=$2
shift 2

for pair in train:development valid:validation test:evaluation; do
    split=${pair%:*} name=${pair#*:}
    impact data clotho --csv "$folder/clotho_captions_$name.csv" --audio "$folder/$name" --split "$split" \
        --out "$out/$split.jsonl"
done
impact data join --manifests "$out"/{train,valid,test}.jsonl --out "$out/manifest.jsonl"
impact precompute manifest="$out/manifest.jsonl" out="$out/latents" clip_seconds=10.24 "$@"
impact verify "$out/latents" --manifest "$out/manifest.jsonl"
