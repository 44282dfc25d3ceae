PYTHON ?= python3.11
BIN := .venv/bin
ACTIVE := PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: install demo test test-fast test-slow test-long slurm test-slurm status clean-checkpoints lint schema

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

install: .venv/installed  ## make .venv with the pinned dependencies

demo: install  ## train and compare the four stages on synthetic data
	$(ACTIVE) snakemake --cores all plan train_all report
	@cat results/dmsc/logs/report.log
	@echo "report: results/dmsc/report/index.html"

# The exported model must be read by transformers 4 as well; a test loads it with this copy.
.venv/transformers4: .venv/installed
	$(BIN)/pip install --quiet --no-deps --target $@ transformers==4.57.6 huggingface-hub==0.36.0 tokenizers==0.22.1
	touch $@

# Groups of tests start in the order of tests/conftest.py, longest first.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: install .venv/transformers4  ## all tests but the slow ones
	$(PYTEST) -m "not slow and not long"

test-fast: install  ## unit tests that start no processes, for while you write
	$(PYTEST) -m "not slow and not long" -k "not another_process" tests/unit

test-slow: install  ## demos at full size and benchmarks; SLURM=tests/slurm adds the tests on a real Slurm
	$(PYTEST) -m slow tests/unit tests/workflow $(SLURM)

test-long: install  ## a soak: kills at random times, thousands of examples
	$(PYTEST) -m "long or not slow" --hypothesis-profile thorough

slurm:  ## Debian's packages of Slurm, to test with
	dpkg -s munge slurm-client slurmctld slurmd > /dev/null 2>&1 || \
		(apt-get update -qq && apt-get install -y -qq --no-install-recommends munge slurm-client slurmctld slurmd)

test-slurm: install slurm  ## the workflow on a real Slurm of two nodes on this machine; needs root
	$(BIN)/python -m pytest tests/slurm

status: install  ## what trains, and how far it is
	$(BIN)/python -m persona status

clean-checkpoints: install  ## delete what no training needs any more, and say what is left
	$(BIN)/python -m persona disk --delete

lint: install  ## style, types, workflow
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(ACTIVE) snakemake --lint

schema: install  ## the JSON schema of the configuration, for editors; a test keeps it in step
	$(BIN)/python -c 'import json; from persona.config import Config; print(json.dumps(Config.model_json_schema(), indent=2, ensure_ascii=False))' > workflow/schemas/config.schema.json
