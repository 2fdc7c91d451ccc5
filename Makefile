# SPDX-License-Identifier: Apache-2.0
# The two commands are `make up` and `make test`; `make help` lists the rest.

PYTHON ?= python3
UV := .tools/bin/uv
BIN := .venv/bin
MEMBERS := client serving training loadtest
NAMES := inkling inkling-serving inkling-training inkling-loadtest
PACKAGES := client/inkling serving/inkling_serving training/inkling_training loadtest/inkling_loadtest
SOURCES := $(MEMBERS) tests scripts benchmarks examples

PYTEST := $(BIN)/python -m pytest
# One process more than there are cores, as tests wait a third of their time. The tests of
# a file stay together, because they share what they start; see tests/conftest.py.
WORKERS = $(shell $(PYTHON) -c 'import os; print(min(1 + os.cpu_count(), 5))')
BESIDE = --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# With it, each process that is started here compiles TensorFlow anew: 11 s of CPU time
# instead of 4.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help up test test-all stack-test images release check format lint types lock proto setup bench examples clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: setup ## train, publish and serve; then open http://127.0.0.1:8080/
	@$(BIN)/inkling up

test: setup ## run all that a change must pass: the checks, then the tests
	@$(MAKE) --no-print-directory --jobs 2 check
	@failed=0; \
	$(PYTEST) $(BESIDE) -m "not alone and not soak and not stack" || failed=1; \
	$(PYTEST) -m "alone and not soak and not stack" || failed=1; \
	echo "The images were NOT built or run here; make stack-test does that."; \
	exit $$failed

test-all: test ## and the tests that take long or are seldom needed
	@$(PYTEST) -m soak

stack-test: setup ## build the images, run the Compose file, and break it (root, Debian)
	@$(PYTEST) -m stack

DOCKER ?= docker
IMAGES := gateway training loadtest

images: ## build the images of IMAGES: gateway training loadtest
	@DOCKER="$(DOCKER)" scripts/images.sh $(IMAGES)

release: setup ## build and try wheels and sources in dist/; VERSION=0.2.0 sets the version
	@scripts/release.sh $(VERSION)

check: format-check lint types lock-check proto-check ## run the checks without the tests

format: setup ## put the code into its format
	@$(BIN)/ruff format $(SOURCES)
	@$(BIN)/ruff check --fix --select I $(SOURCES)

format-check: setup
	@$(BIN)/ruff format --check $(SOURCES)

lint: setup ## look for mistakes, and print the budgets of the house style
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/python scripts/style_budgets.py

types: setup ## check the types
	@$(BIN)/mypy

examples: setup ## run the lessons, from a straight line to the served network
	@$(BIN)/python -m examples

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

PROTOS := inkling/v1/classifier.proto inkling/v1/admin.proto
WIRES := inkling_serving/tensorflow_serving_wire/tensorflow_serving.proto \
	inkling_serving/open_inference_wire/open_inference.proto
# $(call generate,FOLDER): write the generated code into FOLDER/client and FOLDER/serving.
define generate
	@cd client && ../$(PROTOC) -I. --python_out=$(1)/client --pyi_out=$(1)/client \
		--grpc_python_out=$(1)/client $(PROTOS)
	@cd serving && ../$(PROTOC) -I. --python_out=$(1)/serving --pyi_out=$(1)/serving \
		$(WIRES)
endef

proto: $(UV) ## generate the gRPC code anew after a .proto file has changed
	$(call generate,..)

proto-check: $(UV)
	@rm -rf .tools/proto && mkdir -p .tools/proto/client .tools/proto/serving
	$(call generate,../.tools/proto)
	@cd .tools/proto && find . -type f | while read -r file; do \
		cmp "$$file" "../../$$file" || exit 1; done || \
		{ echo "the generated code is out of date; run: make proto" >&2; exit 1; }

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
