# Two commands do everything on a fresh machine: `make quickstart` and `make test`. Both may be repeated.

PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
RUN     = runs/quickstart

.PHONY: help install quickstart test test-all docs clean

help:
	@echo "make quickstart   install, train faces at 32x32 (minutes on a CPU), render a latent walk"
	@echo "make test         install with the developers' tools and run the suite"
	@echo "make test-all     the suite with its slow tests"
	@echo "make docs         write docs/cli-help.txt anew"
	@echo "make clean        remove $(VENV) and caches (runs stay)"

install: $(VENV)/.installed

quickstart: $(VENV)/.installed
	$(BIN)/progan train --config quickstart --out $(RUN)
	$(BIN)/progan interpolate $(RUN) --grid 4x2 --seconds 8 --out $(RUN)/walk.webp
	@echo
	@echo "Pictures by time   $(RUN)/fakes-*.png"
	@echo "The growth         $(RUN)/growth.gif"
	@echo "A latent walk      $(RUN)/walk.webp"
	@echo "The generator      $(RUN)/snapshots/generator-final.safetensors"
	@echo "TensorBoard        $(BIN)/progan board"

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "slow or not slow"

docs: $(VENV)/.installed-dev
	$(BIN)/python docs/cli_help.py > docs/cli-help.txt

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("progan needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
