PYTHON ?= python3.11
BIN := .venv/bin
ACTIVE := PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: install demo test lint schema

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

install: .venv/installed  ## make .venv with the pinned dependencies

demo: install  ## train and compare the four stages on synthetic data
	$(ACTIVE) snakemake --cores all plan train_all report
	@cat results/dmsc/logs/report.log
	@echo "report: results/dmsc/report/index.html"

test: install  ## unit and workflow tests
	$(BIN)/python -m pytest

lint: install  ## style, types, workflow
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(ACTIVE) snakemake --lint

schema: install  ## the JSON schema of the configuration, for editors; a test keeps it in step
	$(BIN)/python -c 'import json; from persona.config import Config; print(json.dumps(Config.model_json_schema(), indent=2, ensure_ascii=False))' > workflow/schemas/config.schema.json
