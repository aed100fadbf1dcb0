#!/usr/bin/env bash
# WavCaps -> latent shards: the first ten seconds of each clip, without those of AudioCaps.
#
#   bash data_prep/recipes/wavcaps.sh FOLDER OUT [key=value ...]
#
# FOLDER has json_files/ as published (its blacklist/ too), and the clips in audio/<source>.
# Keys are those of `impact precompute`, such as codec=audioldm:CHECKPOINT text_encoder=t5:FOLDER device=cuda.
set -euo pipefail
folder=$1 out=$2
shift 2

json=$folder/json_files
impact data wavcaps --json "$json"/{FreeSound/fsd,BBC_Sound_Effects/bbc,SoundBible/sb,AudioSet_SL/as}_final.json \
    --audio "$folder/audio" --seconds 10 --valid-share 0.01 --out "$out/manifest.jsonl" \
    --exclude "$json/blacklist/blacklist_exclude_all_ac.json"
impact precompute manifest="$out/manifest.jsonl" out="$out/latents" clip_seconds=10.24 "$@"
impact verify "$out/latents" --manifest "$out/manifest.jsonl"
