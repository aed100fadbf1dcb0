#!/usr/bin/env bash
# A folder of your own sounds -> latent shards.
#
#   bash data_prep/recipes/folder.sh FOLDER OUT [key=value ...]
#
# FOLDER has audio files and captions.csv, with the columns file and caption; without that file, the clips have no caption.
# Keys are those of `impact precompute`, such as codec=audioldm:CHECKPOINT text_encoder=t5:FOLDER device=cuda.
set -euo pipefail
folder=$1 out=$2
shift 2

captions=()
if [ -f "$folder/captions.csv" ]; then captions=(--captions "$folder/captions.csv"); fi
impact data folder --audio "$folder" "${captions[@]}" --valid-share 0.1 --out "$out/manifest.jsonl"
impact precompute manifest="$out/manifest.jsonl" out="$out/latents" clip_seconds=5.12 "$@"
impact verify "$out/latents" --manifest "$out/manifest.jsonl"
