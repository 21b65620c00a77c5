# Everything happens in .venv, which the first call sets up; a second call finds it and does nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

# tests run side by side; each worker with one thread, so that they do not fight for the cores
WORKERS ?= 2
# more arguments for pytest, as in: make test PYTEST="-k select -x"
PYTEST ?=

EXAMPLE := examples/fashion_mnist
DEMO := demo-out

.NOTPARALLEL:
.PHONY: help demo test check lint types unit fmt bench clean
.DEFAULT_GOAL := help

help:  ## show what can be made
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

demo: $(VENV)/.core  ## compress the shipped example; results in demo-out
	$(BIN)/compress run $(EXAMPLE)/model.onnx --data $(EXAMPLE)/calib.npz \
		--eval $(EXAMPLE)/eval.py:evaluate --max-drop 0.5% -o $(DEMO)
	@echo "open $(DEMO)/report.html in a browser; the compressed model is $(DEMO)/model.onnx"

test: lint types unit  ## ruff, mypy --strict and all tests: what CI runs

check: test  ## the same

lint: $(VENV)/.dev  ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.dev  ## mypy --strict
	$(BIN)/mypy --strict

unit: $(VENV)/.dev  ## all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(PYTEST)

fmt: $(VENV)/.dev  ## let ruff format and repair
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.bench  ## compare with float and with other quantizers; takes hours
	$(BIN)/python -m benchmarks.quantization -o benchmarks/results/quantization.md

clean:  ## remove everything that make made, .venv too
	rm -rf $(VENV) $(DEMO) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- setting up -----------------------------------------------------------------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is missing or older than 3.11: call make PYTHON=python3.11, or newer" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing torch, OR-tools and the tools for development, once"
	$(PIP) --editable '.[torch,solve,dev]'
	@touch $@ $(VENV)/.core

$(VENV)/.bench: $(VENV)/.dev $(wildcard benchmarks/*.txt) benchmarks/peers/requirements.txt
	$(PIP) --requirement benchmarks/requirements.txt
	$(PIP) --no-deps --requirement benchmarks/requirements-alone.txt
	$(BIN)/python -m benchmarks.peers.interpreter
	@touch $@
