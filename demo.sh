#!/usr/bin/env bash
# The whole way on real sound, as `make demo` runs it. Every command below skips what is finished, so the same call
# continues after an interruption. Usage: demo.sh RUN_FOLDER
set -euo pipefail

demo=${1:?usage: demo.sh RUN_FOLDER}
data=data/builtin
seconds=5.12      # 128 latent patches of 40 ms
decoding=(--duration $seconds --iterations 16 --diffusion-steps 25 --guidance 3 --format flac)

mkdir -p "$demo"
: > "$demo/commands.txt.new"
run() { # show, note for the report, and do
    printf '\n$ %s\n' "$*"
    printf '%s\n' "$*" >> "$demo/commands.txt.new"
    "$@"
}

run python -m impact_pl.data_prep.builtin --out "$data"
run impact-precompute manifest="$data/manifest.jsonl" out="$demo/latents" clip_seconds=$seconds

run impact-train experiment=demo_pretrain name=demo/pretrain data.path="$demo/latents"
run impact-train experiment=demo_text name=demo/text data.path="$demo/latents" init_from="$demo/pretrain/model"
run impact-train experiment=demo_text name=demo/untrained data.path="$demo/latents" init_from= trainer.max_steps=0

captions=(--captions-file "$data/manifest.jsonl" --split valid)
run impact-generate "${captions[@]}" --model "$demo/text/model" --out "$demo/generated" "${decoding[@]}"
run impact-generate "${captions[@]}" --model "$demo/untrained/model" --out "$demo/generated_untrained" "${decoding[@]}"

real=(python -m impact_pl.cli.reconstruct --manifest "$data/manifest.jsonl" --duration $seconds)
run "${real[@]}" --split valid --real "$demo/real" --reconstructed "$demo/reconstructed"
run "${real[@]}" --split train --limit "$num_valid" --real "$demo/real_train"
mv "$demo/commands.txt.new" "$demo/commands.txt"
