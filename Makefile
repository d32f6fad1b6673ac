# The doors of rollrep; `make` alone lists them.
#
#   PYTHON=python3.12      which Python makes .venv (3.11 or newer)
#   ARGS="-k restore -x"   passed on to pytest, to the demo or to the benchmark
#   WORKERS=4              how many processes the tests run in
#   ROOM=/tmp              where the tests' databases lie
#   SEED=17, SEEDS=1000    one run of the simulation; so many

PYTHON  ?= python3
WORKERS ?= logical
ARGS    ?=

# In memory where that has room and may hold programs: a disk's syncs are most of what the tests wait for.
ROOM    ?= $(or $(shell findmnt --noheadings --types tmpfs --output OPTIONS,AVAIL --bytes /dev/shm 2>/dev/null | \
             awk '$$1 !~ /noexec/ && $$2 > 2e9 { print "/dev/shm"; exit }'),$(or $(TMPDIR),/tmp))

LOCK   := requirements-dev.lock
PLUGIN := plugins/rollrep-ping
STAMP  := .venv/.made
BIN    := .venv/bin
PIP    := -m pip --quiet --disable-pip-version-check
# What the lock holds beside the dependencies in pyproject.toml: the build backend, so that nothing floats.
BUILD  := hatchling editables
DOORS  := demo test sim check bench lock clean

.DEFAULT_GOAL := help
.PHONY: help $(DOORS) lint format types rooms python
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

help:
	@echo "make demo     two machines, a broken line, a wrong DELETE, and the way back; proven, in a minute"
	@echo "make test     all tests, doctests included             ARGS='-k restore -x'"
	@echo "make sim      both sides under a seed: disk, clock, line, death    SEED=17, SEEDS=1000"
	@echo "make check    ruff, formatting, mypy, import rules"
	@echo "make bench    measures                                 ARGS=--help"
	@echo "make lock     writes $(LOCK) anew from pyproject.toml"
	@echo "make clean    removes .venv, caches and builds"

demo: $(STAMP)
	@$(BIN)/python fixtures/demo.py $(ARGS)

test: $(STAMP)
	@TMPDIR=$(ROOM) $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal --doctest-modules rollrep plugins tests $(ARGS)

# The order of Python's sets is part of what a seed decides.
sim: $(STAMP)
	@PYTHONHASHSEED=0 PYTHONPATH=tests:fixtures $(BIN)/python tests/sim.py $(SEED) $(if $(SEEDS),--seeds $(SEEDS)) $(ARGS)

# Each part runs although one before it failed: so one run shows all there is to mend.
check: $(STAMP)
	@$(MAKE) --keep-going lint format types rooms

lint: $(STAMP)
	@echo "ruff check"
	@$(BIN)/ruff check --quiet --output-format concise .

format: $(STAMP)
	@echo "ruff format --check"
	@$(BIN)/ruff format --check --quiet --output-format concise . || { \
	  echo "not formatted; mend it: $(BIN)/ruff format ."; exit 1; }

types: $(STAMP)
	@echo "mypy (strict)"
	@$(BIN)/mypy --no-error-summary

rooms: $(STAMP)
	@echo "import rules, sizes, skipped tests"
	@$(BIN)/python -m pytest -q --no-header -p no:cacheprovider tests/test_rooms.py

bench: $(STAMP)
	@$(BIN)/python -m bench $(ARGS)

# Made anew, not mended, whenever one of these changes: what is not in the lock is not in .venv.
$(STAMP): $(LOCK) pyproject.toml $(PLUGIN)/pyproject.toml
	@$(MAKE) python
	@echo "making .venv from $(LOCK)"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python $(PIP) install --requirement $(LOCK)
	@$(BIN)/python $(PIP) install --no-deps --no-build-isolation --editable . --editable $(PLUGIN)
	@touch $@

lock: python
	@echo "resolving pyproject.toml"
	@rm -rf build/lock && $(PYTHON) -m venv build/lock
	@build/lock/bin/python $(PIP) install --upgrade "pip>=25.1"
	@build/lock/bin/python $(PIP) install --group dev --group bench $(BUILD) . ./$(PLUGIN)
	@{ echo "# Written by \`make lock\` from pyproject.toml: everything that test, check, demo and bench use."; \
	   build/lock/bin/python $(PIP) freeze --all --exclude pip --exclude setuptools --exclude rollrep \
	     --exclude rollrep-ping; } > build/$(LOCK)
	@mv build/$(LOCK) $(LOCK) && rm -rf build/lock
	@echo "$(LOCK): $$(grep -c == $(LOCK)) packages"

python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "there is no $(PYTHON) here; name a Python 3.11 or newer: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); rollrep needs 3.11 or newer: make PYTHON=python3.12" >&2; exit 1; }

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
