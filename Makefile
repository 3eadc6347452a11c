# One word for each thing a developer does. Set-up runs by itself and again only when the pinned requirements change.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3)
BIN := .venv/bin
CODE := lineal chassis tabular services workflows examples tools benchmarks tests
IMAGES := lineage ingest features trainer registry serving monitor workflows

.PHONY: demo test check compose-test proto up down bench setup format baseline requirements
.DEFAULT_GOAL := check

setup: .venv/.ready

.venv/.ready: requirements/dev.txt
	@echo "Setting up .venv (a few minutes the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 13) else "Lineal needs Python 3.11 or 3.12: make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
	@echo "Set-up is done"

demo: setup ## the whole story on real flights; ARGS=--quick for three minutes
	@$(BIN)/lineal demo $(ARGS)

up: setup ## every service on this machine, until Ctrl-C
	@$(BIN)/lineal up $(ARGS)

down: setup
	@$(BIN)/lineal down $(ARGS)

test: setup
	@$(BIN)/python -m pytest $(ARGS)

compose-test: setup ## compose.yaml for real; needs a Docker engine
	@tests/compose/run

bench: setup
	@$(BIN)/python -m benchmarks $(ARGS)

check: setup
	@echo "format and lint"
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/ruff check --quiet .
	@echo "types"
	@$(BIN)/mypy $(CODE)
	@echo "imports"
	@$(BIN)/lint-imports --no-logo
	@echo "contracts"
	@$(BIN)/buf format --exit-code --diff >/dev/null || { echo "proto/ is not formatted; run make format"; exit 1; }
	@$(BIN)/buf lint
	@$(BIN)/buf breaking --against proto/baseline.binpb
	@$(BIN)/python tools/generate_contracts.py --check

format: setup
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .
	@$(BIN)/buf format --write

proto: setup ## the generated code under lineal/api
	@$(BIN)/python tools/generate_contracts.py

baseline: setup ## what buf breaking compares with; written at a release, never to silence it
	@$(BIN)/buf build --exclude-source-info --output proto/baseline.binpb

# The only target that needs uv. Images take the versions that the tests ran with.
requirements:
	@$(call compile,dev)
	@for name in $(filter-out monitor,$(IMAGES)); do $(call compile,$$name,--constraint requirements/dev.txt) || exit 1; done
	@$(call compile,monitor,--extra alibi --constraint requirements/dev.txt)

compile = uv pip compile --quiet pyproject.toml --extra $(1) $(2) --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make requirements' --output-file requirements/$(1).txt
