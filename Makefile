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
# What `make test-quick` runs: rooms that need neither root nor other programs.
QUICK := $(addprefix tests/,test_architecture.py test_documents.py test_durations.py \
  test_ground_floor.py oci config metadata content obs cri/test_pure.py images/test_plan.py \
  layers/test_tar.py layers/test_decompress.py registry/test_pure.py registry/test_hosts_toml.py)
JOBS ?= 2
CRICTL_VERSION := 1.37.0
CONTAINERDS := 2.4.2 2.3.4
RUNC_VERSION := 1.4.0
# What `make run` serves; empty: the defaults, or the user's own configuration.
CONFIG ?=
# `make bench BENCH=layers` runs one of benchmarks/ alone.
BENCH ?= $(basename $(notdir $(wildcard benchmarks/*.py)))
# How many times as many examples as in `make test`.
FUZZ_FACTOR ?= 50

.PHONY: help setup test test-quick coverage lint format proto docs run deb image image-check sbom lock demo bench fuzz erofs survival neighbours real crictl critest containerd runc kubelet \
  snapshots-suite stargz costs page-check systemd-check conformance clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

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

test-quick: setup ## the inner loop: under a minute, without root and real parts
	$(BIN)/pytest -q -n $(JOBS) $(QUICK) $(PYTEST_ARGS)

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

docs: setup ## regenerate docs/configuration.md from the options
	$(BIN)/python -m cri_imaged.config.render >docs/configuration.md

run: setup ## serve in the foreground; CONFIG=FILE for a configuration
	$(BIN)/cri-imaged serve $(if $(CONFIG),--config $(CONFIG))

deb: ## build the Debian package into dist/, for this machine's release; ARCHITECTURE=arm64 or amd64
	deploy/debian/build.sh dist

image: ## build a container image of it into dist/, as an OCI archive, as root (needs buildah, debootstrap)
	deploy/image/build.sh dist

image-check: setup image ## build the image, have our daemon import it, and run a program of it
	IMAGE=$$(ls dist/*.oci.tar) $(BIN)/pytest tests/real/test_image_archive.py

sbom: setup ## write what the packages are made of into dist/, as CycloneDX
	@mkdir -p dist
	version=$$($(BIN)/python -c 'import cri_imaged; print(cri_imaged.__version__)') && \
	  sed "s/^dynamic = .*/version = \"$$version\"/" pyproject.toml | \
	  $(BIN)/cyclonedx-py requirements --pyproject /dev/stdin --output-reproducible \
	  --output-file dist/cri-imaged.cdx.json deploy/requirements.lock

lock: setup ## choose anew what packages and images are built with, with hashes
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --upgrade --output-file deploy/requirements.lock pyproject.toml

demo: setup ## show the main job, from an empty store to a running program and back
	$(BIN)/python deploy/demo/demo.py

bench: setup ## run the benchmarks, as root; BENCH=NAME for one
	@set -e; for name in $(BENCH); do echo "--- $$name"; $(BIN)/python benchmarks/$$name.py; done

fuzz: setup ## every property test with 50 times as many examples; FUZZ_FACTOR=N
	FUZZ_FACTOR=$(FUZZ_FACTOR) $(BIN)/pytest -n $(JOBS) -m hypothesis $(PYTEST_ARGS)

survival: setup ## kill points 20 times each, 100 power cuts, minutes of crowds, as root: an hour
	SURVIVAL_ROUNDS=10 SURVIVAL_CUTS=100 SURVIVAL_SECONDS=300 \
	  $(BIN)/pytest -n $(JOBS) --dist worksteal tests/survival $(PYTEST_ARGS)

erofs: setup ## all tests of layers that are images, by loop devices as old kernels need them, as root
	EROFS=all $(BIN)/pytest -n $(JOBS) --dist loadscope tests/erofs tests/layers/test_images.py \
	  $(PYTEST_ARGS)
	EROFS=all $(BIN)/pytest -n $(JOBS) --dist loadscope -k erofs tests/snapshots tests/survival \
	  tests/real $(PYTEST_ARGS)
	EROFS=all $(BIN)/pytest tests/neighbours $(PYTEST_ARGS)

costs: setup ## measure what containerd adds to a pull, on a quiet machine, as root
	COSTS=1 $(BIN)/pytest tests/real/runtimes/test_costs.py

page-check: setup ## the page in Debian's chromium, which has to be there; pictures of it go into .cache/page
	PAGE=$(CACHE)/page $(BIN)/pytest tests/real/test_page.py $(PYTEST_ARGS)

systemd-check: setup ## the unit, run by a systemd of its own in namespaces, as root
	SYSTEMD=1 $(BIN)/pytest tests/real/test_unit.py $(PYTEST_ARGS)

conformance: setup ## every spec of critest that runs offline, on our node and on plain containerd, as root: 5 minutes
	CRITEST=all $(BIN)/pytest tests/real/runtimes/test_critest.py $(PYTEST_ARGS)

real: crictl critest containerd runc kubelet snapshots-suite stargz ## build every real part that the tests drive (needs go)

neighbours: setup ## an honest pull beside every hostile one that the tests know, as root: 15 minutes
	NEIGHBOURS=all $(BIN)/pytest tests/neighbours $(PYTEST_ARGS)

crictl: $(CACHE)/bin/crictl ## build the crictl that the tests drive, into .cache/bin (needs go)
critest: $(CACHE)/bin/critest ## build the critest that the tests drive
containerd: $(CONTAINERDS:%=$(CACHE)/containerd-%/containerd) ## build the containerds that the tests drive
runc: $(CACHE)/bin/runc ## build the runc that the tests drive (needs libseccomp-dev)
kubelet: $(CACHE)/bin/kubelet ## build the kubelet that the tests drive
stargz: $(CACHE)/bin/stargz ## build the stargz-snapshotter that the tests drive
snapshots-suite: $(CACHE)/bin/snapshots-suite ## build containerd's test suite for snapshotters

# Each part is built from inside a module of ours, so that go.mod pins its version; in a copy,
# because go writes the sums beside it. $(1): the module's folder; $(2): what go shall do there.
define go-build
@command -v go >/dev/null || { echo "make: $@ needs go (https://go.dev/dl/)" >&2; exit 1; }
mkdir -p $(CACHE)/build $(dir $@)
rm -rf $(CACHE)/build/$(1) && cp -r tests/real/$(1) $(CACHE)/build/$(1)
cd $(CACHE)/build/$(1) && export GOBIN="$(CURDIR)/$(patsubst %/,%,$(dir $@))" GOFLAGS=-mod=mod && $(2)
@touch $@
endef

$(CACHE)/bin/crictl: tests/real/crictl/go.mod
	$(call go-build,crictl,go install \
	  -ldflags "-X sigs.k8s.io/cri-tools/pkg/version.Version=$(CRICTL_VERSION)" tool)

$(CACHE)/bin/critest: tests/real/critest/go.mod
	$(call go-build,critest,go test -c -o "$$GOBIN/critest" sigs.k8s.io/cri-tools/cmd/critest)

$(CACHE)/containerd-%/containerd: tests/real/containerd-%/go.mod
	$(call go-build,containerd-$*,go install -tags no_btrfs \
	  -ldflags "-X github.com/containerd/containerd/v2/version.Version=v$*" tool)

$(CACHE)/bin/runc: tests/real/runc/go.mod
	$(call go-build,runc,go install -tags seccomp -ldflags "-X main.version=$(RUNC_VERSION)" tool)

$(CACHE)/bin/kubelet: tests/real/kubelet/go.mod
	$(call go-build,kubelet,go install tool)

$(CACHE)/bin/stargz: tests/real/stargz/go.mod tests/real/stargz/main.go
	$(call go-build,stargz,go build -o "$$GOBIN/stargz" .)

$(CACHE)/bin/snapshots-suite: tests/real/snapshots/go.mod tests/real/snapshots/suite_test.go
	$(call go-build,snapshots,go test -c -o "$$GOBIN/snapshots-suite" .)

clean: ## remove what the other targets made
	rm -rf $(VENV) $(CACHE) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
