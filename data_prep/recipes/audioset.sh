#!/usr/bin/env bash
# AudioSet -> latent shards without captions, for stage 1.
#
#   bash data_prep/recipes/audioset.sh FOLDER OUT [key=value ...]
#
# FOLDER has the published segment CSVs and class_labels_indices.csv, the clips in audio/, and in audiocaps/ the CSVs of
# AudioCaps, whose test and validation clips are part of AudioSet and are left out.
# Keys are those of `impact precompute`, such as codec=audioldm:CHECKPOINT text_encoder=t5:FOLDER device=cuda.
set -euo pipefail
folder=$1 out=$2
shift 2

impact data audioset --csv "$folder/balanced_train_segments.csv" "$folder/unbalanced_train_segments.csv" \
    --labels "$folder/class_labels_indices.csv" --audio "$folder/audio" --out "$out/train.jsonl" \
    --exclude "$folder/audiocaps/test.csv" "$folder/audiocaps/val.csv"
impact data audioset --csv "$folder/eval_segments.csv" --labels "$folder/class_labels_indices.csv" \
    --audio "$folder/audio" --split valid --out "$out/valid.jsonl" \
    --exclude "$folder/audiocaps/test.csv" "$folder/audiocaps/val.csv"
impact data join --manifests "$out"/{train,valid}.jsonl --out "$out/manifest.jsonl"
impact precompute manifest="$out/manifest.jsonl" out="$out/latents" clip_seconds=10.24 text_encoder=none "$@"
impact verify "$out/latents" --manifest "$out/manifest.jsonl"
