# clip-csi. `make demo` and `make test` install what they need on a Debian 12 machine, as root.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# What the product needs to build and run, and what the tests use as real peers.
PACKAGES := python3-venv python3-dev gcc pkg-config libfuse3-dev fuse3 ca-certificates
PEERS    := docker-registry skopeo umoci attr openssl apache2-utils

.PHONY: test lint bench venv packages proto clean
test: venv
	$(BIN)/pytest

lint: venv
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

venv: $(STAMP)

$(STAMP): pyproject.toml Makefile
	$(MAKE) packages
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable . --group dev
	touch $@

packages:
	@missing=$$(dpkg-query -W -f '$${Package} $${db:Status-Status}\n' $(PACKAGES) $(PEERS) 2>/dev/null \
	  | awk '$$2 == "installed" {print $$1}' | sort | comm -13 - <(printf '%s\n' $(PACKAGES) $(PEERS) | sort)); \
	[ -z "$$missing" ] || { \
	  [ "$$(id -u)" = 0 ] || { echo "run as root, or install first: $$missing" >&2; exit 1; }; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; }

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info

SHELL := /bin/bash

proto: venv
	$(BIN)/python -m grpc_tools.protoc -I. --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	  --python_out=. --grpc_python_out=. --mypy_out=. --mypy_grpc_out=. csi/proto/*.proto
