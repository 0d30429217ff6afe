# Everything a person or CI does with a checkout. `make` alone lists the targets.
#
# `make test`, `make demo` and `make run` set themselves up: Python 3.11+ and make are enough.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
CACHE := .cache
# Empty: the newest suitable interpreter in PATH. `make PYTHON=/path/to/python3 setup` chooses one.
PYTHON ?=
INTERPRETERS := $(if $(PYTHON),$(PYTHON),python3.14 python3.13 python3.12 python3.11 python3)
# `make test PYTEST_ARGS="-k pull -x"` adds to pytest's arguments.
PYTEST_ARGS ?=
JOBS ?= 2
CRICTL_VERSION := 1.36.0
# What `make run` serves; empty: the defaults, or the user's own configuration.
CONFIG ?=
# `make bench BENCH=layers` runs one of benchmarks/ alone.
BENCH ?= $(basename $(notdir $(wildcard benchmarks/*.py)))
# How many times as many examples as in `make test`.
FUZZ_FACTOR ?= 50

.PHONY: help setup test coverage lint format proto run demo bench fuzz survival crictl clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/.installed ## make .venv and install the project with its development tools

$(VENV)/.installed: pyproject.toml
	@if [ ! -x $(BIN)/python ]; then \
	  found=; \
	  for candidate in $(INTERPRETERS); do \
	    if $$candidate -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' \
	       >/dev/null 2>&1; then found=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "make: no usable Python among: $(INTERPRETERS)" >&2; \
	    echo "make: cri-imaged needs Python 3.11 or newer with the venv and ensurepip modules" >&2; \
	    echo "make: (Debian: apt install python3-venv), or name one: make PYTHON=... setup" >&2; \
	    exit 1; \
	  fi; \
	  echo "$$found -m venv $(VENV)"; $$found -m venv $(VENV); \
	fi
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@

test: setup ## run the tests; parts that are missing here skip, saying why
	$(BIN)/pytest -n $(JOBS) --dist loadscope $(PYTEST_ARGS)

coverage: ## run the tests and refuse less than 90 % line coverage of server/
	@$(MAKE) --no-print-directory test \
	  PYTEST_ARGS="--cov --cov-report=term:skip-covered --cov-fail-under=90 $(PYTEST_ARGS)"

lint: setup ## ruff and mypy --strict
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: setup ## put the sources into ruff's format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

proto: setup ## regenerate the gRPC stubs from proto/
	$(BIN)/python proto/generate.py

run: setup ## serve in the foreground; CONFIG=FILE for a configuration
	$(BIN)/cri-imaged serve $(if $(CONFIG),--config $(CONFIG))

demo: setup ## show the main job, from an empty store to a running program and back
	$(BIN)/python deploy/demo/demo.py

bench: setup ## run the benchmarks, as root; BENCH=NAME for one
	@set -e; for name in $(BENCH); do echo "--- $$name"; $(BIN)/python benchmarks/$$name.py; done

fuzz: setup ## every property test with 50 times as many examples; FUZZ_FACTOR=N
	FUZZ_FACTOR=$(FUZZ_FACTOR) $(BIN)/pytest -n $(JOBS) -m hypothesis $(PYTEST_ARGS)

survival: setup ## kill points 20 times each, 100 power cuts, minutes of crowds, as root: an hour
	SURVIVAL_ROUNDS=10 SURVIVAL_CUTS=100 SURVIVAL_SECONDS=300 \
	  $(BIN)/pytest -n $(JOBS) --dist worksteal tests/survival $(PYTEST_ARGS)

crictl: $(CACHE)/bin/crictl ## build the crictl that the tests drive, into .cache/bin (needs go)

# crictl's module is built from inside a module of ours, so that go.mod pins its version; in a copy,
# because go writes the sums beside it.
$(CACHE)/bin/crictl: tests/real/crictl/go.mod
	@command -v go >/dev/null || { echo "make: crictl needs go (https://go.dev/dl/)" >&2; exit 1; }
	mkdir -p $(CACHE)/crictl
	cp tests/real/crictl/go.mod $(CACHE)/crictl/go.mod
	cd $(CACHE)/crictl && GOBIN="$(CURDIR)/$(CACHE)/bin" go install -mod=mod \
	  -ldflags "-X sigs.k8s.io/cri-tools/pkg/version.Version=$(CRICTL_VERSION)" \
	  sigs.k8s.io/cri-tools/cmd/crictl
	@touch $@

clean: ## remove what the other targets made
	rm -rf $(VENV) $(CACHE) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
