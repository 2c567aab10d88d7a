# What people type. Everything that is built, installed for Python or measured lands in target/.
#
#   make run      build and start respmux; with no UPSTREAM it brings a private Redis of its own
#   make demo     one application, directly on Redis and through respmux
#   make test     every test, against real servers
#   make lint     formatting, clippy, documentation, scripts, deployment files
#   make bench    Redis alone, respmux and its peers, measured side by side
#   make storm    the token storm, for longer than `make test` does
#   make suite    Redis' own test suite (REDIS_SOURCE=a checkout of Redis 7.0.15), direct and through respmux
#   make jobs     RQ, Celery and BullMQ with workers that are killed, direct and through respmux
#   make state    blocking pops, subscribers, transactions and their races, directly and through respmux
#   make deploy-check  the chart, Kustomize, alerts, dashboard and unit, checked without a cluster
#   make static   the static binary of the image, tried in an empty root directory

SHELL := /bin/bash
TARGET := $(or $(CARGO_TARGET_DIR),target)
CARGO ?= cargo

# make run: where to listen (several, separated by spaces), where the metrics are, and what else to pass on.
UPSTREAM ?=
LISTEN ?= 127.0.0.1:6380
ADMIN ?= 127.0.0.1:9380
ARGS ?=

# make bench: the micro-benchmarks, and for how long each is measured.
MICRO ?= scan route
MICRO_ARGS ?= --warm-up-time 0.5 --measurement-time 2 --noplot

# make storm: for how long, and with how many clients; tests/storm/main.rs names further settings.
# Only for that target: `make test` has short storms of its own.
storm: export STORM_SECONDS := $(or $(STORM_SECONDS),120)
storm: export STORM_CLIENTS := $(or $(STORM_CLIENTS),300)
STORM_ARGS ?=

# make suite: a checkout of Redis' repository at tag 7.0.15; tests/suite/run.py names further settings.
export REDIS_SOURCE ?=

# make jobs: how many jobs each system carries, and respmux' cap; tests/jobs/run.py names further settings.
export JOBS ?= 10000
export JOBS_CAP ?= 32

# make state: one scenario by its name; tests/state/main.rs names the settings.
STATE_ARGS ?=

.PHONY: run build demo test lint bench micro storm state suite jobs deploy-check static clean

build:
	$(CARGO) build --release --locked

run: build
ifeq ($(UPSTREAM),)
	.ci/need 'valkey-server|redis-server=redis-server'
endif
	@exec $(TARGET)/release/respmux run $(foreach address,$(LISTEN),--listen $(address)) --admin $(ADMIN) \
	    $(if $(UPSTREAM),--upstream '$(UPSTREAM)',--embedded) $(ARGS)

demo: build
	benches/demo/run.sh

test:
	tests/setup.sh
	$(CARGO) test --locked

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items
	deploy/validate.sh

bench: build
	benches/peers/run.sh
	$(MAKE) --no-print-directory micro

micro:
	$(CARGO) bench --locked $(foreach name,$(MICRO),--bench $(name)) -- $(MICRO_ARGS)

storm:
	tests/setup.sh
	$(CARGO) test --release --locked --test storm -- --ignored --nocapture $(STORM_ARGS)

suite: build
	.ci/need redis-server=redis-server redis-cli=redis-tools tclsh=tcl python3=python3
	tests/suite/run.py

jobs: build
	tests/jobs/run.sh

state:
	tests/setup.sh
	$(CARGO) test --release --locked --test state -- --ignored --nocapture --test-threads 1 $(STATE_ARGS)

deploy-check:
	deploy/check.sh

static:
	deploy/static.sh

clean:
	$(CARGO) clean
