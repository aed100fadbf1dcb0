# `make help` lists the targets. Everything runs in the project's own environment (.venv) unless PYTHON is given.
PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
INSTALL := $(BIN)/pip install -q -c constraints.txt
DEMO    := runs/demo
CLAP    := .venv-clap
SIZE    ?= quick
DATA    ?= $(firstword $(wildcard data/corpus/manifest.jsonl) data/builtin/manifest.jsonl)
SLURM   := slurmctld slurmd slurm-client munge
BENCH   ?= runs/bench
MACHINE ?= cpu

.DEFAULT_GOAL := help
.PHONY: help setup demo ablation test test-all test-web test-slurm test-clap test-versions bench bench-gpu lint format docs corpus precompute-latents tensorboard clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/installed ## create .venv and install the package with the extras that demo and tests need

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	DS_BUILD_OPS=0 $(INSTALL) -e ".[eval,onnx,dev,tune,serve,deepspeed,audioldm,docs,notebook]"
	@touch $@

demo: setup ## real sounds -> latents -> both stages -> new sounds -> metrics -> runs/demo/report.html
	@PATH="$(abspath $(BIN)):$$PATH" bash demo.sh $(DEMO)

ablation: setup ## [SIZE=quick] [DATA=manifest.jsonl, else of make corpus if it is there, else the demo's]: which claims hold -> runs/ablation
	@test "$(DATA)" != data/builtin/manifest.jsonl || $(BIN)/python -m data_prep.corpus.builtin --out data/builtin
	$(BIN)/python -m lab.ablation --size $(SIZE) --data "$(DATA)" $(ARGS)

test: setup ## the fast tests (six minutes on two cores)
	$(BIN)/python -m pytest -n 3 --dist loadfile

test-all: setup ## the fast and the slow tests
	$(BIN)/python -m pytest -m "not gpu and not slurm and not clap"

test-web: setup ## the exported page in Chromium (two minutes); fetches onnxruntime-web with npm
	mkdir -p build/npm && cd build/npm && npm pack --silent onnxruntime-web@1.30.0 && tar xzf onnxruntime-web-1.30.0.tgz
	IMPACT_ONNXRUNTIME_WEB="$(abspath build/npm/package)" $(BIN)/python -m pytest -m slow tests/portable/test_page_browser.py

test-slurm: setup ## the SLURM tests (ten minutes): a real two-node cluster on this machine, as root; installs SLURM if missing
	@if ! { command -v slurmctld && command -v slurmd && command -v sbatch && command -v munged; } >/dev/null; then \
		test "$$(id -u)" = 0 -a -n "$$(command -v apt-get)" || { echo 'make test-slurm needs root, and $(SLURM) (apt-get install them)' >&2; exit 2; }; \
		apt-get update -q && apt-get install -y --no-install-recommends $(SLURM); fi
	$(BIN)/python -m pytest -m slurm tests/slurm

test-versions: setup ## [ARGS=lowest]: the fast tests with the lowest and the newest dependencies (10 GB, twice the time of make test)
	$(INSTALL) uv
	$(BIN)/python -m lab.trials.versions $(ARGS)

test-clap: $(CLAP)/installed ## laion-clap's own numbers (a minute, and 2 GB), in an environment of its own (.venv-clap)
	$(CLAP)/bin/python -m pytest -m clap tests/clap

# --no-deps: laion-clap 1.1.7 declares numpy<2, which pip cannot resolve with constraints.txt; it runs with numpy 2.
$(CLAP)/installed: setup.cfg # without constraints.txt, whose numpy is too new for laion-clap
	$(PYTHON) -m venv $(CLAP)
	$(CLAP)/bin/pip install -q -e ".[clap]" pytest
	@touch $@

# BENCH=docs/performance renews the committed page; MACHINE, what the records' names begin with, keeps those of others.
BENCHMARK := $(BIN)/python -m lab.benchmark
bench: setup ## speed on this CPU (an hour) -> $(BENCH)/*.json and $(BENCH).md
	$(BENCHMARK) latency --iterations 16 64 --preset fast --json $(BENCH)/$(MACHINE)-whole.json
	$(BENCHMARK) throughput --engine fused --precision auto --iterations 16 --batch 1 2 4 8 --preset fast --json $(BENCH)/$(MACHINE)-throughput.json
	$(BENCHMARK) scaling --engine fused --precision auto --iterations 16 --batch 1 --duration 5 10.24 30 60 --json $(BENCH)/$(MACHINE)-scaling.json
	$(BENCHMARK) training --batch 8 --repeats 2 --json $(BENCH)/$(MACHINE)-training.json
	$(BENCHMARK) reading --json $(BENCH)/$(MACHINE)-reading.json
	$(BENCHMARK) peers --batch 1 --engine fused --precision auto --preset fast --json $(BENCH)/$(MACHINE)-peers.json
	$(BENCHMARK) document $(BENCH)/*.json --out $(BENCH).md

bench-gpu: setup ## speed on a CUDA device -> $(BENCH)/*.json and $(BENCH).md
	$(BENCHMARK) latency --device cuda --batch 1 8 --preset fast --json $(BENCH)/gpu-latency.json
	$(BENCHMARK) latency --device cuda --model large --batch 8 --preset fast --json $(BENCH)/gpu-latency-large.json
	$(BENCHMARK) throughput --device cuda --preset fast --json $(BENCH)/gpu-throughput.json
	$(BENCHMARK) scaling --device cuda --preset fast --json $(BENCH)/gpu-scaling.json
	$(BENCHMARK) training --device cuda --batch 32 --variants 1 2 3 4 5 6 7 8 9 10 11 12 --json $(BENCH)/gpu-training.json
	$(BENCHMARK) training --device cuda --model large --batch 32 --variants 6 11 12 --json $(BENCH)/gpu-training-large.json
	$(BENCHMARK) reading --workers 0 1 2 4 8 --json $(BENCH)/gpu-reading.json
	$(BENCHMARK) peers --device cuda --whole --preset fast --json $(BENCH)/gpu-peers.json
	$(BENCHMARK) document $(BENCH)/*.json --out $(BENCH).md

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src/impact_pl lab data_prep

format: setup ## ruff's formatter and its safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## the documentation site, built strictly -> build/site/index.html
	$(BIN)/python -m mkdocs build --strict --site-dir build/site

corpus: setup ## [ESC50=ESC-50-master]: the largest corpus of real recordings that packages give -> data/corpus (7.6 GB of downloads)
	$(BIN)/python -m data_prep.corpus.corpus --out data/corpus $(if $(ESC50),--esc50 "$(ESC50)")

precompute-latents: setup ## MANIFEST=manifest.jsonl OUT=folder [ARGS="clip_seconds=5.12 ..."]: shards of latents
	@test -n "$(MANIFEST)" -a -n "$(OUT)" || { echo 'usage: make precompute-latents MANIFEST=manifest.jsonl OUT=latents [ARGS="key=value ..."]' >&2; exit 2; }
	$(BIN)/impact precompute manifest="$(MANIFEST)" out="$(OUT)" $(ARGS)

tensorboard: setup ## watch all runs in the browser
	$(BIN)/tensorboard --logdir runs

clean: ## remove caches and build products (keeps .venv, data and runs)
	rm -rf build dist src/*.egg-info .pytest_cache .ruff_cache .mypy_cache .coverage
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
