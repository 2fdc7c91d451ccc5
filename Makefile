# The two commands are `make up` and `make test`; `make help` lists the rest.

PYTHON ?= python3
UV := .tools/bin/uv
BIN := .venv/bin
MEMBERS := client serving training loadtest
NAMES := inkling inkling-serving inkling-training inkling-loadtest
PACKAGES := client/inkling serving/inkling_serving training/inkling_training loadtest/inkling_loadtest
SOURCES := $(MEMBERS) tests scripts benchmarks

# With it, each process that is started here compiles TensorFlow anew: 11 s of CPU time
# instead of 4.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help up test check format lint types lock proto setup style soak bench clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: setup ## train, publish and serve; then open http://127.0.0.1:8080/
	@$(BIN)/inkling up

test: setup ## run the tests
	@$(BIN)/python -m pytest

check: setup format-check lint types lock-check proto-check test ## all that a change must pass

format: setup ## put the code into its format
	@$(BIN)/ruff format $(SOURCES)
	@$(BIN)/ruff check --fix --select I $(SOURCES)

format-check: setup
	@$(BIN)/ruff format --check $(SOURCES)

lint: setup ## look for mistakes and departures from the house style
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/python scripts/style_budgets.py

types: setup ## check the types
	@$(BIN)/mypy

style: setup ## print the style budgets
	@$(BIN)/python scripts/style_budgets.py

soak: setup ## run the long forms of the tests
	@$(BIN)/python -m pytest -m soak

bench: setup ## compare with other ways to serve; see docs/benchmarks.md
	@$(BIN)/python -m benchmarks

LOCK = $(UV) pip compile pyproject.toml $(MEMBERS:%=%/pyproject.toml) --all-extras \
	--group dev --universal --python-version 3.11 --generate-hashes --no-header --quiet \
	$(NAMES:%=--no-emit-package %)

lock: $(UV) ## lock the dependencies anew after a pyproject.toml has changed
	@$(LOCK) --output-file requirements.lock

lock-check: $(UV)
	@cp requirements.lock .tools/requirements.lock
	@$(LOCK) --output-file .tools/requirements.lock
	@cmp requirements.lock .tools/requirements.lock || \
		{ echo "requirements.lock is out of date; run: make lock" >&2; exit 1; }

# The oldest generator whose code all supported releases of protobuf and grpcio run.
PROTOC = $(UV) run --quiet --no-project --isolated --python $(PYTHON) \
	--with grpcio-tools==1.74.0 --with 'setuptools<81' python -m grpc_tools.protoc

proto: $(UV) ## generate the gRPC code anew after a .proto file has changed
	@cd client && ../$(PROTOC) -I. --python_out=. --pyi_out=. --grpc_python_out=. \
		inkling/v1/classifier.proto
	@cd serving && ../$(PROTOC) -I. --python_out=. --pyi_out=. \
		inkling_serving/tensorflow_serving_wire/tensorflow_serving.proto

proto-check: proto
	@git diff --exit-code --stat -- client/inkling/v1 serving/inkling_serving/tensorflow_serving_wire || \
		{ echo "the generated code was out of date; commit what make proto made" >&2; \
		exit 1; }

setup: .venv/.done ## install everything into .venv

.venv/.done: requirements.lock pyproject.toml $(MEMBERS:%=%/pyproject.toml) | $(UV)
	@echo "Installing into .venv ..."
	@$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
	@$(UV) pip sync --quiet --python .venv --require-hashes requirements.lock
	@$(UV) pip install --quiet --python .venv --no-deps $(MEMBERS:%=--editable %)
	@touch $@

$(UV):
	@$(PYTHON) -m venv .tools
	@.tools/bin/python -m pip install --quiet --disable-pip-version-check uv

clean: ## remove what was installed; models and runs stay
	@rm -rf .venv .tools
