# What people and CI run. `make demo` shows it, `make test` checks everything; both set up what they need.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
# Ray and matplotlib are for benchmarks only.
BENCH_VENV := .venv-bench
# kubernetes-validate and hadolint are for checks of manifests only.
DEPLOY_VENV := .venv-deploy
# Rustic AI's other packages, Ray among them, beside ours as a wheel: tests of what users install.
CLIENTS_VENV := .venv-clients
DISTRIBUTIONS := $(CLIENTS_VENV)/dist
# Agent packages of Rustic AI: a runtime profile of the hosts under `make test-agents`.
AGENTS_VENV := .venv-agents
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
REVISION := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
# DOCKER_BUILDKIT=0 make images: with the classic builder.
BUILD := docker build --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION)
BIN := target/debug
# A free port, so that the stack of a test never meets another one.
STACK := $(BIN)/engine-svc dev --hosts 2 --listen 127.0.0.1:0
# Seeds of `make sim`: others each time.
SEEDS ?= $(shell from=$$(od -An -N5 -tu8 /dev/urandom | tr -d ' '); echo $$from..$$((from + 200000)))
# Namespaces of the network need root; see tests/chaos/README.md.
CHAOS := PYTHONPATH=tests $(VENV)/bin/python -m chaos --binaries $(BIN)
NEXTEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo "cargo nextest run" || echo "cargo test")
PROTOS := rustic_ai/agent/v1/agent.proto rustic_ai/agent_host/v1/agent_host_service.proto \
          rustic_ai/engine/v1/engine_service.proto

.PHONY: help docs api setup build demo test test-rust test-python test-package distributions test-api-server test-agents \
        test-agents-learned framework-table test-cgroups test-deploy test-images images image-engine-svc image-agent-host \
        image-builder image-runtime image-demo image-redis image-prometheus sim chaos chaos-quick chaos-selftest \
        bench bench-quick lint fmt protos clean

help: ## Lists the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready ## Makes .venv with rusticai-k8s, and a Redis if the machine has none

$(VENV)/.ready: python/pyproject.toml
	python=$$(python/find-python.sh) && $$python -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable 'python[dev]'
	tests/ensure-redis.sh $(VENV)
	tests/ensure-nats.sh
	touch $@

build: ## Builds the programs
	cargo build --workspace --bins

demo: build setup ## Runs a guild of real agents on two hosts, then stops everything
	$(STACK) -- $(VENV)/bin/python examples/ping_pong_guild.py

test: test-rust test-python test-package test-api-server test-agents ## Runs every test

test-rust: build setup
	$(NEXTEST) --workspace

test-python: build setup
	$(STACK) -- $(VENV)/bin/pytest -q -n 2 python
	PYTHONPATH=tests $(VENV)/bin/pytest -q tests/chaos

test-package: distributions ## Checks wheel and sdist, beside Rustic AI's other packages; needs no stack
	RUSTIC_DISTRIBUTIONS=$(DISTRIBUTIONS) $(CLIENTS_VENV)/bin/pytest -q python/tests/distribution

# Always anew: a wheel that is older than its sources would be tested in their stead.
distributions: $(CLIENTS_VENV)/.ready
	rm -rf $(DISTRIBUTIONS)
	$(CLIENTS_VENV)/bin/python -m build --outdir $(DISTRIBUTIONS) python >/dev/null
	$(CLIENTS_VENV)/bin/pip install --quiet --disable-pip-version-check --force-reinstall --no-deps $(DISTRIBUTIONS)/*.whl

$(CLIENTS_VENV)/.ready: python/pyproject.toml python/tests/distribution/requirements.txt
	python=$$(python/find-python.sh) && $$python -m venv $(CLIENTS_VENV)
	$(CLIENTS_VENV)/bin/pip install --quiet --disable-pip-version-check ./python \
	  -r python/tests/distribution/requirements.txt
	touch $@

# The hosts run in the same environment: a guild's manager opens the API server's database.
test-api-server: build setup distributions ## Runs rusticai-api with this engine and PostgreSQL
	python/tests/api_server/ensure-postgresql.sh
	$(BIN)/engine-svc dev --hosts 2 --python $(CURDIR)/$(CLIENTS_VENV)/bin/python --listen 127.0.0.1:0 -- \
	  $(CLIENTS_VENV)/bin/pytest -q python/tests/api_server

# One host, so that both lives of an agent are on the same one.
test-agents: build setup $(AGENTS_VENV)/.ready ## Runs agents of Rustic AI's own packages, each in two lives
	RUSTIC_TEST_AGENTS_PYTHON=$(CURDIR)/$(AGENTS_VENV)/bin/python \
	  AGENT_HOST_RUNTIME_PROFILES=$(AGENTS_VENV)/profiles.toml \
	  $(BIN)/engine-svc dev --hosts 1 --listen 127.0.0.1:0 -- $(VENV)/bin/pytest -q python/tests/agent_packages

test-cgroups: build setup ## Tests control groups on a kernel of its own, which has all their limits; 3 minutes; needs apt-get
	CARGO_MANIFEST_DIR=$(CURDIR)/tests tests/vm/run \
	  $$(cargo test --workspace --test cgroups --no-run 2>&1 | sed -n 's/.*Executable.*(\(.*\))$$/\1/p') --test-threads 1

test-agents-learned: export RUSTIC_TEST_LEARNED = 1
test-agents-learned: test-agents ## The same, and waits for what hosts learn of each class, 10 minutes

$(AGENTS_VENV)/.ready: python/pyproject.toml $(addprefix python/tests/agent_packages/,requirements.txt profiles.toml)
	python=$$(python/find-python.sh) && $$python -m venv $(AGENTS_VENV)
	$(AGENTS_VENV)/bin/pip install --quiet --disable-pip-version-check --editable python \
	  -r python/tests/agent_packages/requirements.txt
	sed 's|VENV|$(CURDIR)/$(AGENTS_VENV)|' python/tests/agent_packages/profiles.toml >$(AGENTS_VENV)/profiles.toml
	touch $@

framework-table: build setup distributions ## Prints what of Rustic AI passes on which engine, 10 minutes
	$(STACK) -- $(VENV)/bin/python python/tests/framework_table.py sync=$(VENV)/bin/python \
	  multiprocess=$(VENV)/bin/python ray=$(CLIENTS_VENV)/bin/python k8s=$(VENV)/bin/python

sim: ## Runs more seeds of the simulation than CI does, 10 minutes; fresh ones each time; SEEDS=4711 runs one and tells what happened
	RUSTIC_SIM_SEEDS=$(SEEDS) cargo test --workspace --test simulation every_seed -- --nocapture

chaos: build setup ## Hurts a real stack in every way, 20 minutes; needs root; writes tests/chaos/results
	$(CHAOS) --rounds 2
	PYTHONPATH=tests $(VENV)/bin/python -m chaos.document

chaos-quick: build setup ## A short one, less than 3 minutes; needs root
	$(CHAOS) --quick

chaos-selftest: build setup ## Breaks a promise on purpose: chaos must find it; needs root
	$(CHAOS) --quick --only sabotage; test $$? = 1

test-deploy: $(DEPLOY_VENV)/.ready ## Checks manifests, alerts, dashboard and Dockerfiles; needs no cluster
	$(DEPLOY_VENV)/bin/pytest -q deploy/tests

# promtool is the only tool that neither pip nor the machine of a Kubernetes user is likely to have.
$(DEPLOY_VENV)/.ready: deploy/tests/requirements.txt
	python=$$(python/find-python.sh) && $$python -m venv $(DEPLOY_VENV)
	$(DEPLOY_VENV)/bin/pip install --quiet --disable-pip-version-check -r deploy/tests/requirements.txt
	deploy/tests/ensure-promtool.sh
	touch $@

images: image-engine-svc image-agent-host image-demo image-redis image-prometheus ## Builds all images, tagged with the version

# What takes longest, and what needs no compiler: with make -j one beside the other.
image-builder:
	$(BUILD) -f docker/engine-svc.Dockerfile --target builder .

image-runtime:
	$(BUILD) -f docker/agent-host.Dockerfile --target runtime .

image-engine-svc: image-builder
	$(BUILD) -f docker/engine-svc.Dockerfile -t engine-svc:$(VERSION) .

image-agent-host: image-builder image-runtime
	$(BUILD) -f docker/agent-host.Dockerfile -t agent-host:$(VERSION) .

image-demo: image-agent-host
	$(BUILD) -f docker/demo.Dockerfile --build-arg BASE=agent-host:$(VERSION) -t agent-host-demo:$(VERSION) docker

image-redis:
	$(BUILD) -f docker/redis.Dockerfile -t rustic-redis:$(VERSION) .

image-prometheus:
	$(BUILD) -f docker/prometheus.Dockerfile -t rustic-prometheus:$(VERSION) .

test-images: setup images ## Runs the stack in containers: a guild, a drained host, a killed host
	$(VENV)/bin/pytest -q -x docker/tests

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

docs: build setup ## Writes the documents that are generated from code
	RUSTIC_WRITE_DOCS=1 cargo test -q -p rustic-proto --lib the_list_of_reasons
	RUSTIC_WRITE_DOCS=1 cargo test -q -p rustic-tests --test documents --test errors
	dot -Tsvg docs/parts.dot -o docs/parts.svg
	dot -Tsvg docs/gpus.dot -o docs/gpus.svg

# Its difference is part of a review: what it breaks, it breaks for every client.
api: setup ## Renews proto/api.binpb, the API as it was agreed on
	cd proto && ../$(VENV)/bin/buf build --output api.binpb --exclude-source-info

protos: setup ## Generates the Python stubs anew
	$(VENV)/bin/python -m grpc_tools.protoc -I proto --python_out=python/src --pyi_out=python/src \
	  --grpc_python_out=python/src $(PROTOS)
	rm python/src/rustic_ai/agent/v1/agent_pb2_grpc.py

clean: ## Removes what was built
	cargo clean
	rm -rf $(VENV) $(BENCH_VENV) $(DEPLOY_VENV) $(CLIENTS_VENV) $(AGENTS_VENV)
