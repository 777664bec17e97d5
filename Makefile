# make demo    from nothing to labels: sets everything up in .venv, labels a clip, draws a picture of the result
# make test    sets up likewise and runs all tests
# make check   formatting, lint and types
# make bench   how fast this machine labels, beside what else one would use: 70 minutes, goes on if stopped
# make bench-check   whether speed fell against the results that are committed: ten minutes
# make soak    whether memory stays flat over a million frames: eight minutes
# make fuzz    damaged clips, configurations, labels and models: none may end in more than a refusal; five minutes
# make system-deps  programs that some tests talk to, by apt-get; without them those tests are skipped
# make clean   removes what the others made; runs/ stays

PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check bench bench-check soak fuzz system-deps clean setup
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

soak: setup
	$(BIN)/python -m benchmarks.soak

# Two at a time.
fuzz: setup
	@$(BIN)/python -m tests.fuzz videos --count 10000 --seconds 270 & videos=$$!; failed=0; \
	for kind in configs labels models; do \
	$(BIN)/python -m tests.fuzz $$kind --count 5000 --seconds 85 || failed=1; done; \
	wait $$videos && exit $$failed

# Programs that tests/system talks to; vpipe itself needs none.
system-deps:
	@missing=""; \
	[ -x /usr/sbin/mosquitto ] || missing="$$missing mosquitto"; \
	ls /usr/lib/*/girepository-1.0/GstRtspServer-1.0.typelib >/dev/null 2>&1 || \
	missing="$$missing gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-base gstreamer1.0-plugins-good"; \
	ls /usr/lib/*/gstreamer-1.0/libgstx264.so >/dev/null 2>&1 || missing="$$missing gstreamer1.0-plugins-ugly"; \
	command -v chromium >/dev/null || missing="$$missing chromium"; \
	ls -d /usr/lib/postgresql/*/bin >/dev/null 2>&1 || missing="$$missing postgresql"; \
	[ -n "$$missing" ] || exit 0; \
	echo "system-deps: installing$$missing, which tests talk to"; \
	sudo=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	$$sudo apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -qq -y --no-install-recommends $$missing >/dev/null

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
