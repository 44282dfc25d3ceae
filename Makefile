PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: install test lint

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

install: .venv/installed  ## make .venv with the pinned dependencies

test: install  ## unit and workflow tests
	$(BIN)/python -m pytest

lint: install  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
