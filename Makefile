# The two commands are `make demo` and `make test`. Everything happens in .venv.
SHELL := /bin/bash
VENV  := .venv
BIN   := $(VENV)/bin
# Programs are started by the dozen: each module is compiled once, whatever the environment says.
export PYTHONPYCACHEPREFIX := $(CURDIR)/$(VENV)/pycache
unexport PYTHONDONTWRITEBYTECODE
# What a target needs is made side by side.
MAKEFLAGS += --jobs=2

.PHONY: help env demo build test test-all liboqs lint types bench bench-micro bench-baseline fuzz lock clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

env: $(VENV)/.ready ## Make the environment with every plugin of the workspace

$(VENV)/.ready: requirements.lock pyproject.toml $(wildcard plugins/*/pyproject.toml) guardian/pyproject.toml tools/bootstrap
	@tools/bootstrap $(VENV)
	@touch $@

demo: env ## Two hosts talk over VeilNet through a relay
	@tools/need demo
	@$(BIN)/veilnet-conflux demo $(ARGS)

build: env ## Wheels, executable and Debian package, into dist/; WHAT=wheels|executable|debian
	@tools/need build
	@$(BIN)/python tools/release $(WHAT)

test: env lint types liboqs ## Lint, types, layers and every test that this machine can run
	@tools/need test
	@plugins/tether_webrtc/tools/far-end || echo "make test: without libdatachannel its tests are skipped"
	@tools/test "not thorough" $(ARGS)

liboqs: env
	@plugins/crypto_oqs/tools/build-liboqs || echo "without liboqs its tests are skipped"

test-all: env lint types ## The same, and a skip is a failure
	@tools/need test-all
	@plugins/crypto_oqs/tools/build-liboqs
	@plugins/tether_webrtc/tools/far-end
	@tools/windows make
	@tools/macos make
	@VEILNET_TEST_ALL=1 tools/test "" $(ARGS)

lint: env
	@$(BIN)/ruff check -q . && $(BIN)/ruff format -q --check . && $(BIN)/lint-imports --no-logo >$(VENV)/lint-imports.log || { cat $(VENV)/lint-imports.log; exit 1; }

types: env
	@$(BIN)/mypy
	@$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32 plugins/tun_wintun/src/conflux_tun_wintun/*.py conflux/runtime/winpipe.py

bench: env ## Beside other overlays, then bench-micro: ROUNDS=n, ONLY=name,name, QUICK=1
	@tools/need bench
	@plugins/tether_webrtc/tools/far-end || echo "make bench: without libdatachannel"
	@ROUNDS="$(ROUNDS)" ONLY="$(ONLY)" QUICK="$(QUICK)" $(BIN)/python -m benches.compare
	@$(if $(ONLY)$(QUICK),:,$(MAKE) -s bench-micro)

bench-micro: env ## Micro-benchmarks of the contracts
	@for b in benches/bench_*.py; do $(BIN)/python $$b || exit 1; done

bench-baseline: env ## Instructions of the packet path beside those kept in benches/baseline.json
	@$(BIN)/python benches/baseline.py $(ARGS)

fuzz: env ## Fuzz every parser for MINUTES=n in all, or TARGET=name alone
	@MINUTES="$(MINUTES)" RUNS="$(RUNS)" TARGET="$(TARGET)" tools/fuzz

lock: env ## Pin every dependency anew, with hashes and without addresses
	@tools/lock

clean: ## Remove the environment and every cache
	@rm -rf $(VENV) .hypothesis .mypy_cache .ruff_cache .import_linter_cache dist build
