PYTHON ?= python3.11
BIN := .venv/bin
ACTIVE := PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: install demo test lint

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

install: .venv/installed  ## make .venv with the pinned dependencies

demo: install  ## train and compare the four stages on synthetic data
	$(ACTIVE) snakemake --cores all train_all report
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
