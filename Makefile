# The front door. `make` alone lists what there is.
# The first Python here that is new enough; python3 itself where none is, so that setup can say so.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && exit; done; echo python3)
# Tests wait for other programs a good part of their time: one process more than there are cores.
JOBS   ?= $(shell echo $$(( $$(nproc 2>/dev/null || echo 2) + 1 )))
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.setup-stamp
# Set by people who have uv and want the fast road; pip alone is enough.
UV     := $(shell command -v uv 2>/dev/null || { test -x $(BIN)/uv && echo $(BIN)/uv; })

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export UV_NO_PROGRESS = 1
.DEFAULT_GOAL := help
.PHONY: help setup tools test-tools demo test test-full run lint types format bench requirements docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv from the pinned, hashed requirements (instant when current)
	@true

$(STAMP): requirements/dev.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Berth needs Python 3.11 or newer; say make PYTHON=python3.12 setup")'
ifneq ($(UV),)
	@echo "installing the pinned requirements with uv"
	@$(UV) pip install -q --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@$(UV) pip install -q --python $(BIN)/python --no-build-isolation --no-deps -e .
else
	@echo "installing the pinned requirements with pip (a minute or two the first time)"
	@$(BIN)/python -m pip install -q --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install -q --no-build-isolation --no-deps -e .
endif
	@touch $@

tools: ## install the Debian programs that demo and tests meet (as root with apt; else says what is skipped)
	@deploy/debian-tools

test-tools: tools ## the same, and an emulator of Azure Blob Storage into ./.tools where npm is
	@deploy/npm-tools

demo: setup tools ## one model's whole journey on real components (REAL_DB=1 public Trivy DB, KEEP=1 leaves it running)
	@$(BIN)/python -m demo.run $(if $(REAL_DB),--real-db) $(if $(KEEP),--keep)

test: setup test-tools ## the test suite, about a quarter of an hour on two cores
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow" $(PYTEST_ARGS)

test-full: setup test-tools ## all tests, the slow ones too
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

run: setup ## the whole service on this machine: http://127.0.0.1:8080, data in ./.berth
	@$(BIN)/berth up

lint: setup ## ruff: lint and format check
	@$(BIN)/ruff check . && linted=1; $(BIN)/ruff format --check . && test "$$linted" || { echo "make format mends most of it"; exit 1; }

format: setup ## let ruff mend what it can
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .

types: setup ## mypy --strict
	@$(BIN)/mypy

bench: setup tools ## speed beside docker-registry and skopeo on this machine (SIZE_MB=1024 REPEATS=3)
	@$(BIN)/python -m bench.gateway $(if $(SIZE_MB),--size-mb $(SIZE_MB)) $(if $(REPEATS),--repeats $(REPEATS))
	@$(BIN)/python -m bench.push_pull $(if $(SIZE_MB),--size-mb $(SIZE_MB)) $(if $(REPEATS),--repeats $(REPEATS))
	@$(BIN)/python -m bench.build
	@$(BIN)/python -m bench.sync $(if $(SIZE_MB),--size-mb $(SIZE_MB))

docs: setup ## write the generated reference pages
	@$(BIN)/python docs/reference/generate.py

COMPILE = $(or $(UV),$(error making pins needs uv: pip install uv)) pip compile -q pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --no-emit-package berth $(UPGRADE)
requirements: ## pin again, with hashes and without index addresses (UPGRADE=--upgrade for newer versions)
	@$(COMPILE) -o requirements/client.txt
	@$(COMPILE) --extra server -o requirements/server.txt
	@$(COMPILE) --extra server --group pyproject.toml:dev -o requirements/dev.txt
	@! grep -nE 'https?://|^--' requirements/*.txt || { echo "a pin file holds an address; it must not be committed"; exit 1; }

clean: ## remove what demo, bench and tests left (not .venv, not .berth)
	@rm -rf .demo .bench .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
