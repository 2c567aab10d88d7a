# What people type. Everything that is built, installed for Python or measured lands in target/.
#
#   make build         the release, target/release/respmux
#   make run           build and start respmux; with no UPSTREAM it brings a private Redis of its own
#   make demo          one application, directly on Redis and through respmux
#   make test          every test, against real servers
#   make lint          formatting, clippy, documentation, scripts, deployment files
#   make bench         Redis alone, respmux and its peers, measured side by side; WHAT=list shows what else is measured
#   make prove         lists the long proofs; WHAT=storm runs one
#   make deploy-check  the chart, Kustomize, alerts, dashboard and unit, checked without a cluster
#   make package       lists what is shipped; WHAT=image makes one
#   make clean

SHELL := /bin/bash
TARGET := $(or $(CARGO_TARGET_DIR),target)
export CARGO ?= cargo

# make run: where to listen (several, separated by spaces), where the metrics are, and what else to pass on.
UPSTREAM ?=
LISTEN ?= 127.0.0.1:6380
ADMIN ?= 127.0.0.1:9380
ARGS ?=

# make prove, bench, package: which of their entries; several are separated by spaces. Their settings are environment.
WHAT ?=

.PHONY: build run demo test lint bench prove deploy-check package clean

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
	$(CARGO) test --locked --workspace
	tests/status-page/if-there.sh

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps --document-private-items
	deploy/validate.sh

bench:
	@benches/bench.sh $(or $(WHAT),peers micro)

prove:
	@tests/prove.sh $(WHAT)

deploy-check:
	deploy/check.sh

package:
	@deploy/package.sh $(WHAT)

clean:
	$(CARGO) clean

# Names of targets before there were prove, bench and package.
.DEFAULT:
	@.ci/renamed $@
