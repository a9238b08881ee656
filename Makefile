# Two commands do everything on a bare machine: `make demo` and `make test`. `make` alone lists the rest.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
APT := $(if $(filter 0,$(shell id -u)),,sudo) env DEBIAN_FRONTEND=noninteractive apt-get
UV := uv==0.13.*
SPREAD := -n auto --dist loadgroup # a process for each core, with servers of its own: tests/conftest.py
CHAOS := $(BIN)/python -m tests.chaos
CHAOS_OPTIONS := --seed $(or $(SEED),1) $(if $(CHAOS_JSON),--json $(CHAOS_JSON))

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev up down demo check test test-mysql prove-foundation prove-time prove-producer prove-registrations prove-api chaos chaos-short chaos-long chaos-mutants bench bench-peers bench-doors lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/stamp ## .venv with the locked dependencies and `clockjack`, and the server programs
	@$(BIN)/python -m deploy.servers install

setup-dev: .venv/stamp-dev setup ## the same and what tests and checks need

up: setup ## run everything on private servers until Ctrl-C; SCALE="consumer=4 dispatcher=2"
	@exec $(BIN)/python -m deploy.up

down: setup ## end a running `make up`
	@$(BIN)/python -m deploy.up --down

demo: setup ## the main job, with processes being killed: one table, exit code 0 if every guarantee held
	@exec $(BIN)/python -m deploy.demo

check: setup-dev ## format, lint, types, import law, dependency law, unit tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/pytest -q tests/unit

test: setup-dev ## unit and integration tests on servers of their own
	$(BIN)/pytest -q $(SPREAD) tests/unit tests/integration

test-mysql: setup-dev ## the ledger and one end-to-end test on Oracle's MySQL, unpacked privately
	CLOCKJACK_TEST_FLAVOUR=mysql $(BIN)/pytest -q $(SPREAD) -m mysql tests/integration

prove-foundation: setup-dev ## the longer proofs: one line each, with its figure
	@exec $(BIN)/python -m tests.prove.foundation

prove-time: setup-dev ## the proofs of schedules and policies, one line each: about 12 minutes
	@exec $(BIN)/python -m tests.prove.time

prove-registrations: setup-dev ## 20,000 registrations through kill -9 of producers and database: half a minute; SEED=1
	@exec $(BIN)/python -m tests.prove.registrations --seed $(or $(SEED),1)

prove-producer: setup-dev ## the proofs of what other services build on, one line each: about a minute
	@exec $(BIN)/python -m tests.prove.producer

prove-api: setup-dev ## every route against its description, by schemathesis, all checks: about 2 minutes
	@exec $(BIN)/python -m tests.api

chaos: setup-dev ## faults of every process, server, edge and COMMIT, judged by a checker: 8 minutes; SEED=1 CHAOS_JSON=file
	@exec $(CHAOS) chaos $(CHAOS_OPTIONS)

chaos-short: setup-dev ## the same in 90 seconds: kills, FLUSHALL, the commit cutter
	@exec $(CHAOS) short $(CHAOS_OPTIONS)

chaos-long: setup-dev ## failovers, a full and a slow disk, clocks that jump, mixed: 30 minutes
	@exec $(CHAOS) long $(CHAOS_OPTIONS)

chaos-mutants: setup-dev ## 15 mutants of Clockjack, each of which the checker must catch: 15 minutes; SEED=1
	@exec $(CHAOS).mutants $(if $(SEED),--seed $(SEED))

bench: setup-dev ## all benchmarks, into docs/performance.md; on a quiet machine, about half an hour
	@exec $(BIN)/python -m tests.bench

bench-peers: setup-dev ## beside other schedulers; N=10000 ROUNDS=5 PEERS=clockjack,bullmq BENCH_JSON=file
	@exec $(BIN)/python -m tests.bench.side_by_side

bench-doors: setup-dev ## registrations a second by door, beside other schedulers: 3 minutes; ROUNDS=3 DOORS=sql,http BENCH_JSON=file
	@exec $(BIN)/python -m tests.bench.doors

lock: .venv/stamp ## renew both lock files from pyproject.toml
	@$(PIP) install '$(UV)'
	$(call compile,requirements.lock,--extra dashboard)
	$(call compile,requirements-dev.lock,--extra dashboard --extra dev --constraint requirements.lock)

clean: ## remove .venv and .local, with all data in it
	@test ! -d .venv || $(BIN)/python -m deploy.up --down
	rm -rf .venv .local *.egg-info

# setuptools is what installs `clockjack` itself; no annotation may name the place the packages came from
define compile
	@echo 'setuptools>=77' | $(BIN)/uv pip compile --quiet - pyproject.toml $(2) --upgrade --universal --python-version 3.11 \
	  --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' -o $(1)
	@! grep -nE 'https?://|file:|index-url|find-links' $(1)
endef

.venv/stamp: requirements.lock pyproject.toml | $(BIN)/pip
	@echo 'setup: installing the locked dependencies into .venv'
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

.venv/stamp-dev: requirements-dev.lock .venv/stamp
	@echo 'setup: installing what tests and checks need'
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'setup: $(PYTHON) is missing or older than 3.11; try make PYTHON=python3.12 …' >&2; exit 3; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo 'setup: installing python3-venv'; \
	  $(APT) update -qq && $(APT) install -y -qq --no-install-recommends python3-venv >/dev/null; } || \
	  { echo "setup: $(PYTHON) has no venv module; install your system's python3-venv package" >&2; exit 3; }
	@$(PYTHON) -m venv .venv
