#!/usr/bin/env bash
# The whole way on real sound, as `make demo` runs it. Every command below skips what is finished, so the same call
# continues after an interruption. Usage: demo.sh RUN_FOLDER
set -euo pipefail

demo=${1:?usage: demo.sh RUN_FOLDER}
data=data/builtin
seconds=2.56 # 64 latent patches of 40 ms; half of the corpus is shorter than that
decoding=(--duration "$seconds" --iterations 16 --diffusion-steps 25 --guidance 3 --batch-size 16 --format flac)

mkdir -p "$demo"
: > "$demo/commands.txt"
run() { # show, note for the report, and do
    printf '\n$ %s\n' "$*"
    printf '%s\n' "$*" >> "$demo/commands.txt"
    "$@"
}

run python -m data_prep.corpus.builtin --out "$data"
run impact precompute manifest="$data/manifest.jsonl" out="$demo/latents" clip_seconds="$seconds"

run impact train experiment=demo_pretrain name=demo/pretrain data.path="$demo/latents"
run impact train experiment=demo_text name=demo/text data.path="$demo/latents" init_from="$demo/pretrain"
run impact train experiment=demo_text name=demo/untrained data.path="$demo/latents" init_from= trainer.max_steps=0

captions=(--captions-file "$data/manifest.jsonl" --split valid)
run impact generate "${captions[@]}" --model "$demo/text/model" --out "$demo/generated" "${decoding[@]}"
run impact generate "${captions[@]}" --model "$demo/untrained/model" --out "$demo/generated_untrained" "${decoding[@]}"

run impact reconstruct --manifest "$data/manifest.jsonl" --split valid --duration "$seconds" \
    --real "$demo/real" --reconstructed "$demo/reconstructed"
run impact evaluate --generated "$demo/generated" --reference "$demo/real" \
    --floor "$data/manifest.jsonl" --floor-split train \
    --baseline codec="$demo/reconstructed" --baseline untrained="$demo/generated_untrained" \
    --duration "$seconds" --cache "$demo/features" --out "$demo/metrics.json"
run impact report --run "$demo" --out "$demo/report.html"

printf '\nopen %s in a browser; make tensorboard shows the training\n' "$demo/report.html"
