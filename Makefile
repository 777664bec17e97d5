# make demo    from nothing to labels: sets everything up in .venv, labels a clip, draws a picture of the result
# make test    sets up likewise and runs all tests
# make check   formatting, lint and types
# make bench   how fast this machine labels, beside what else one would use: 70 minutes, goes on if stopped
# make bench-check   whether speed fell against the results that are committed: ten minutes
# make clean   removes what the others made; runs/ stays

PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check bench bench-check system-deps clean setup
.DEFAULT_GOAL := demo

demo: setup
	@mkdir -p runs
	$(BIN)/vpipe run configs/lobby.yaml --overwrite > runs/lobby.csv
	$(BIN)/vpipe strip runs/lobby
	@echo "a row per frame: runs/lobby.csv; the run's own record: runs/lobby/frames; the picture: runs/lobby/strip.png"

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks.suite

bench-check: setup
	$(BIN)/python -m benchmarks.suite --check

system-deps:
	@echo "system-deps: nothing to install, all that vpipe needs comes with its Python packages"

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

setup: $(STAMP)

# torch and numpy come first and by their pins: the largest download is then decided before anything that depends on it.
# setuptools comes from the pins too, so that nothing is fetched aside to build vpipe itself.
$(STAMP): setup.py constraints.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "vpipe needs Python 3.11 or newer, found no $(PYTHON); install it, or: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "vpipe needs Python 3.11 or newer, got $$($(PYTHON) -V 2>&1); try: make PYTHON=python3.11" >&2; exit 1; }
	@echo "setting up $(VENV): once, and again when setup.py or constraints.txt change; PyTorch is a large download"
	$(PYTHON) -m venv $(VENV)
	$(PIP) $$(grep -m1 '^torch==' constraints.txt) numpy setuptools
	$(PIP) --no-build-isolation -e '.[dev]'
	@touch $@
