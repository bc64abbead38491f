# Needs make, Python 3.11 or 3.12 and a package index; everything else goes into .venv.
#   make demo    the whole way on real photos      make test    all tests
#   make unit    the quick tests                   make lint    style, types, import rules

PYTHON ?= $(shell for python in python3 python3.12 python3.11; do \
	$$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && break; done)
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test unit lint bench test-deps clean

help:
	@sed -n '2,3s/^# *//p' Makefile

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/pip || "$(or $(PYTHON),false)" -c '$(SUPPORTED)' || { \
		echo "tljobs needs Python 3.11 or 3.12. Install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv || { rm -rf .venv; \
		echo "python -m venv does not work here. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing into .venv (about 3 GB; a few minutes the first time)" >&2
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[dashboard,demo,dev]"
	@# On all cores at once; without it, and where PYTHONDONTWRITEBYTECODE is set, every process compiles TensorFlow anew.
	@$(BIN)/python -m compileall -q -j 0 $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') >/dev/null || true
	@touch $@

demo: setup
	@$(BIN)/tljobs demo

# One run, the quick ring first (tests/conftest.py), so that pytest's closing line counts all tests.
test: setup test-deps
	@$(BIN)/pytest

unit: setup
	@$(BIN)/pytest -m "not slow"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	@for script in $(wildcard bench/[a-z]*.py); do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

# The browser tests drive a real Chromium, and its text needs a font.
test-deps:
	@if command -v chromium >/dev/null; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then \
		echo "The browser tests need Chromium: install it so that \`chromium\` is on the PATH (make unit does without)" >&2; \
		exit 1; fi; \
	if [ "$$(id -u)" = 0 ]; then root=; elif sudo -n true 2>/dev/null; then root="sudo -n"; else \
		echo "The browser tests need Chromium: sudo apt-get install chromium fonts-dejavu-core (make unit does without)" >&2; \
		exit 1; fi; \
	$$root apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive $$root apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
