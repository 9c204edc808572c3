# Everything a fresh machine needs is made here: an environment, the locked dependencies, the service.
# Needs Python >= 3.11 (with venv), git and make.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
UV     := 0.13.9
T      ?=
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help up test check drill bench docs format lock clean

help: ## list these commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-8s %s\n", $$1, $$2 }'

up: $(VENV)/.runtime ## install what is missing, then run the service (ARGS="--help" for its options)
	@exec $(BIN)/seawall up $(ARGS)

test: $(VENV)/.dev ## install what is missing, then run all tests (T=words picks those that match)
	$(BIN)/python -m pytest $(if $(T),-k "$(T)")

check: $(VENV)/.dev ## format, lint, types, contracts, reference pages, unit and tidy tests: under five minutes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/print_reference.py --check
	$(BIN)/python -m pytest -q tests/unit tests/tidy
	$(BIN)/python -m pytest -q --doctest-modules -p no:randomly src

drill: $(VENV)/.runtime ## replay the outage, shortened: as it was, as it is, and the scoreboard (three minutes)
	$(BIN)/seawall drill debacle $(ARGS)

bench: $(VENV)/.dev ## measure this service by its load shapes and append the table to docs/benchmarks.md
	$(BIN)/python -m benchmarks $(ARGS)

docs: $(VENV)/.dev ## print the reference pages again from the code
	$(BIN)/python docs/print_reference.py

format: $(VENV)/.dev ## format and mend what can be mended by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(VENV)/.uv ## resolve the dependencies again (no registry address may stand in a lock)
	$(BIN)/uv pip compile -q --upgrade --universal --generate-hashes --no-header --python-version 3.11 pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile -q --upgrade --universal --generate-hashes --no-header --python-version 3.11 --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

clean: ## remove the environment (never your data)
	rm -rf $(VENV)

$(VENV)/.uv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Seawall needs Python 3.11 or newer (make PYTHON=python3.12 ...)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV)
	@touch $@

$(VENV)/.runtime: requirements.lock pyproject.toml | $(VENV)/.uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml | $(VENV)/.uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-dev.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@ $(VENV)/.runtime
