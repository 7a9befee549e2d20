# What people and CI run. `make demo` shows it, `make test` checks everything; both set up what they need.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
# Ray and matplotlib are for benchmarks only.
BENCH_VENV := .venv-bench
BIN := target/debug
# A free port, so that the stack of a test never meets another one.
STACK := $(BIN)/engine-svc dev --hosts 2 --listen 127.0.0.1:0
NEXTEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo "cargo nextest run" || echo "cargo test")
PROTOS := rustic_ai/agent_host/v1/agent.proto rustic_ai/agent_host/v1/agent_host_service.proto \
          rustic_ai/engine/v1/engine_service.proto

.PHONY: help setup build demo test test-rust test-python bench bench-quick lint fmt protos clean

help: ## Lists the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready ## Makes .venv with rusticai-k8s, and a Redis if the machine has none

$(VENV)/.ready: python/pyproject.toml
	python=$$(python/find-python.sh) && $$python -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable 'python[dev]'
	tests/ensure-redis.sh $(VENV)
	touch $@

build: ## Builds the programs
	cargo build --workspace --bins

demo: build setup ## Runs a guild of real agents on two hosts, then stops everything
	$(STACK) -- $(VENV)/bin/python examples/ping_pong_guild.py

test: test-rust test-python ## Runs every test

test-rust: build setup
	$(NEXTEST) --workspace

test-python: build setup
	$(STACK) -- $(VENV)/bin/pytest -q -n 2 python

bench: setup $(BENCH_VENV)/.ready ## Benchmarks beside the peers, about 10 minutes; writes bench/results
	cargo build --release --workspace --bins
	PYTHONPATH=bench $(BENCH_VENV)/bin/python -m rustic_bench

bench-quick: setup $(BENCH_VENV)/.ready ## A tenth of it, to see that it works
	cargo build --release --workspace --bins
	PYTHONPATH=bench $(BENCH_VENV)/bin/python -m rustic_bench --quick

$(BENCH_VENV)/.ready: python/pyproject.toml bench/requirements.txt
	python=$$(python/find-python.sh) && $$python -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/pip install --quiet --disable-pip-version-check --editable 'python[dev]' -r bench/requirements.txt
	touch $@

lint: ## Checks format and lints; warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

fmt: ## Formats the code
	cargo fmt --all

protos: setup ## Generates the Python stubs anew
	$(VENV)/bin/python -m grpc_tools.protoc -I proto --python_out=python/src --pyi_out=python/src \
	  --grpc_python_out=python/src $(PROTOS)
	rm python/src/rustic_ai/agent_host/v1/agent_pb2_grpc.py

clean: ## Removes what was built
	cargo clean
	rm -rf $(VENV) $(BENCH_VENV)
