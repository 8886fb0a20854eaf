# Verbs of the project; .ci/run calls the same ones. `make help` lists them.

PYTHON ?= $(shell .ci/python)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BYTECODE := $(VENV)/.bytecode
SOURCES := pipeline guest perf tests native setup.py .ci/agent.py .ci/manual.py .ci/screenshot.py .ci/web_screenshots.py
PYTEST := $(BIN)/pytest
# Tests wait for most of their time, so there are more processes than cores.
JOBS ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))
# One process runs all tests of a file. The order is that of tests/conftest.py: long files first. Without it, xdist
# would begin with the files that have most tests, and end with those of few tests that take minutes.
SPREAD := --dist loadfile --no-loadscope-reorder
# JOBS processes share the files. Tests that failed beside others run once more, alone: a loaded machine may be too
# slow for them, and what is broken fails again.
define run_tests
	$(PYTEST) -n $(JOBS) $(SPREAD) $(1) $(ARGS) || { \
		[ $$? = 1 ] && echo "once more, alone: the tests that failed" && \
		$(PYTEST) --last-failed --last-failed-no-failures none $(1) $(ARGS); }
endef
ARGS ?=
# Images of Python often set this. Each process of a run would then compile all sources again: a start takes 0.5 s
# more, and the collection of the tests 34 s of a core instead of 10 s, in each of JOBS processes.
unexport PYTHONDONTWRITEBYTECODE
FUZZ_SECONDS ?= 300
PYTHONS ?= 3.12 3.13

.DEFAULT_GOAL := help
.PHONY: help setup packages machine run check fmt lint type test unit stress violations arm64 pythons fuzz e2e bench figures compiled wheel manual picture screenshots agent perf demo fresh images peers clean

help: ## list the verbs
	@grep -E '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(READY) ## make the virtual environment and install the project into it

$(READY): pyproject.toml .ci/python
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11; say make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || .ci/packages python
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

packages: ## install what must come from apt (as root), or name it
	@.ci/packages want

machine: setup ## kernel, QEMU and vsock device for the virtual machine of the tests, into the cache, where apt has them
	@$(BIN)/python -m tests.support.vm_fetch || true

run: setup ## start the network: make run ARGS="-listen unix:///tmp/network.sock"
	exec $(BIN)/gvtap-pipeline start $(ARGS)

check: lint type unit ## what a commit must pass: lint, types and all tests but the slow ones

fmt: setup ## format the sources
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

lint: setup ## ruff and codespell
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/codespell $(SOURCES) docs contrib examples .ci/* *.md Makefile

type: setup ## mypy --strict
	$(BIN)/mypy

# In a fresh clone, all JOBS processes would make the bytecode of all tests at the same time. (An error of a file is
# for the tests to report.)
$(BYTECODE): $(READY)
	-@$(PYTEST) --collect-only -qq >/dev/null 2>&1
	@touch $@

test: packages setup machine ## everything: lint, types, all tests
	$(MAKE) --no-print-directory --jobs=$(JOBS) compiled $(BYTECODE) lint type
	$(call run_tests)

unit: setup $(BYTECODE) ## the tests that need neither namespaces nor a virtual machine
	$(call run_tests,-m 'not e2e and not vm')

e2e: packages setup machine ## the tests with namespace guests and a virtual machine
	$(MAKE) --no-print-directory --jobs=$(JOBS) compiled $(BYTECODE)
	$(call run_tests,-m 'e2e or vm')

stress: packages setup ## ten million messages over rings, 10^5 schedules and 10^6 connections of TCP, loss, 10^7 fuzzed frames
	STRESS_MESSAGES=10000000 $(PYTEST) --timeout=1800 tests/ipc/test_ring_stress.py $(ARGS)
	SIGNAL_ROUNDS=100 SIGNAL_SEED=$$(date +%s) $(PYTEST) tests/daemon/test_signals_at_random.py $(ARGS)
	$(MAKE) --no-print-directory violations arm64
	GVTAP_TEST_FRESH=1 $(PYTEST) -n $(JOBS) $(SPREAD) tests/daemon tests/e2e/test_signals_at_start.py $(ARGS)
	$(PYTEST) -m stress --timeout=7200 $(ARGS)
	FLEET_MIB=1024 $(PYTEST) -k "addresses_names or fourth_host" --timeout=1800 tests/e2e/test_fleet.py $(ARGS)
	TRANSFER_MIB=5 BULK_MIB=1024 $(PYTEST) -k "two_hundred or large_file" tests/e2e/test_transfer.py $(ARGS)
	BAD_LINK_MIB=256 $(PYTEST) tests/e2e/test_bad_link.py $(ARGS)
	CHURN_SECONDS=30 $(PYTEST) tests/e2e/test_churn.py $(ARGS)
	CHURN_SECONDS=600 $(PYTEST) -s --timeout=1800 tests/e2e/test_churn_guests.py $(ARGS)
	FUZZ_FRAMES=10000000 PERF_CHECK=1 $(PYTEST) -s --timeout=3600 tests/e2e/test_fuzzed_frames.py $(ARGS)
	.ci/packages ci
	$(PYTEST) tests/examples $(ARGS)
	$(MAKE) --no-print-directory images

violations: packages setup compiled ## the tests with namespaces, and fail if a worker makes a system call that its list lacks
	mkdir -p build
	GVTAP_TEST_VIOLATIONS=$(CURDIR)/build/violations $(PYTEST) -n $(JOBS) $(SPREAD) -m 'e2e and not stress' tests/e2e $(ARGS)

arm64: setup ## on Arm64: the data path cross-compiled, and its tests, in QEMU's user mode
	@.ci/packages arm64
	@$(BIN)/python -m tests.support.arm64 $(ARGS)

pythons: setup ## check and a compiled wheel with other Pythons: the installed ones of these, and Debian's 3.13
	@for version in $(PYTHONS); do \
		python=$$($(BIN)/python -m tests.support.other_python $$version) || continue; \
		$(MAKE) --no-print-directory PYTHON=$$python VENV=build/venv-$$version GVTAP_COMPILED=compiled-$$version \
			unit compiled wheel || exit 1; done

fuzz: setup ## property tests with many more examples, then two fuzzers for FUZZ_SECONDS each
	$(PYTEST) --hypothesis-profile=fuzz --timeout=3600 -m 'not e2e and not vm' tests/wire tests/engines tests/guest $(ARGS)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/pip install --quiet --editable '.[fuzz]' || \
		echo "atheris cannot be installed for $$($(BIN)/python -V): the fuzzers are skipped" >&2
	@! $(BIN)/python -c 'import atheris' 2>/dev/null || for name in wire engine names; do \
		$(BIN)/python -m tests.fuzz.run $$name -max_total_time=$(FUZZ_SECONDS) -max_len=600 || exit 1; done

bench: setup ## one number for each part: rings, checksums, GRO, GSO, TCP engine, timers
	@for script in $$(ls perf/micro/*.py | grep -v __init__); do \
		$(BIN)/python -m perf.micro.$$(basename $$script .py) || exit 1; done

figures: setup ## long functions, wide loops, full folders: how the code looks; ARGS=--list names the places
	@$(BIN)/python -m perf.figures $(ARGS)

compiled: setup ## the data path as users have it, in build/compiled; PROFILE=1: compiled for what runs often (make perf does so)
	@$(BIN)/python -m perf.compiled $(if $(PROFILE),--profile)

wheel: setup ## source distribution and wheel in dist/, the wheel compiled where there is a C compiler; PROFILE=1 as above
	$(if $(PROFILE),GVTAP_PROFILE=1 )$(BIN)/python -m build $(if $(PROFILE),--no-isolation )--outdir dist .

manual: setup ## man pages and shell completions in contrib, from the tables of flags
	$(BIN)/python .ci/manual.py

picture: setup ## docs/top.svg, the screen of gvtap-pipeline top
	$(BIN)/python .ci/screenshot.py

agent: ## the guest's agent in one file, build/gvtap-guest.pyz, for guests with Python alone
	$(PYTHON) .ci/agent.py build/gvtap-guest.pyz

screenshots: packages setup ## pictures of the web page in docs/, with namespace guests and Chromium
	$(BIN)/python .ci/web_screenshots.py

perf: packages setup ## all measurements beside the peers, with figures; see perf/README.md
	@$(BIN)/python -c 'import matplotlib' 2>/dev/null || $(BIN)/pip install --quiet --editable '.[perf]' || \
		echo "matplotlib cannot be installed: no charts are drawn" >&2
	@$(BIN)/python -m perf.compiled --profile
	$(BIN)/python -m perf.suite $(ARGS)

peers: ## which peers are installed
	@for peer in gvproxy passt slirp4netns; do \
		command -v $$peer || echo "$$peer is not installed"; done

demo: setup ## a guest in a namespace: ping, a name, pages both ways, iperf3 both ways
	@.ci/packages demo
	@$(BIN)/python -m perf.demo $(ARGS)

fresh: ## demo and test on a machine that has nothing: in a minimal root, with debootstrap (as root)
	@.ci/fresh $(if $(ARGS),"$(ARGS)")

images: ## build and run the images of contrib/containers, from a minimal root (as root, with buildah)
	@.ci/images

clean: ## remove the virtual environment and everything tools left
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
