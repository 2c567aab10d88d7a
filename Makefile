# What people type. Everything that is built, installed for Python or measured lands in target/.
#
#   make run      build and start respmux; with no UPSTREAM it brings a private Redis of its own
#   make demo     one application, directly on Redis and through respmux
#   make test     every test, against real servers
#   make lint     formatting, clippy, documentation, scripts, deployment files
#   make bench    Redis alone, respmux and its peers, measured side by side
#   make cost     what checking every reply costs: integrity loose, normal, strict, and BEFORE=another build
#   make storm    the token storm, for longer than `make test` does
#   make seeded   six bugs built into respmux on purpose, three seeds each: the storm must see all 18
#   make hostile  bad inputs, every command without a login, and every option of what travels on a lent connection
#   make identities  users that never share a connection, a million operations of clients that switch between them
#   make suite    Redis' own test suite (REDIS_SOURCE=a checkout of Redis 7.0.15), direct and through respmux
#   make suite-redis-py  redis-py's own test suite (REDIS_PY_SOURCE=a checkout of redis-py 5.2.1), direct and through respmux
#   make jobs     RQ, Celery and BullMQ with workers that are killed, direct and through respmux
#   make state    blocking pops, subscribers, transactions and their races, directly and through respmux
#   make memory-wall     clients that do not read or do not finish, against a limit of 128 MiB
#   make head-of-line    what one bad client costs the others: T12 a to d, and Jain's index
#   make faults   harm to connections at every byte of a reply, on both sides of respmux
#   make restarts the server killed and stopped again and again under writers
#   make reload   100 reloads, 50 reconnects and 20 swaps of the upstream under load: 0 failed commands
#   make rolling  a rolling restart of three replicas under callers of real client libraries: no failed command
#   make fuzz     parsers, router and addresses under a hundred million mutated inputs, and real servers beside them
#   make sim      a whole worker in simulated time over a hundred thousand seeds, cancelled at every await point
#   make audit    the dependencies: advisories, licences, duplicates, sources, and the bill of materials
#   make deploy-check  the chart, Kustomize, alerts, dashboard and unit, checked without a cluster
#   make status-page   the status page in a real browser, under load; pictures of it in target/status-page
#   make prometheus    a real Prometheus scrapes respmux, its upstream goes away, and the alert fires
#   make scrape-cost   what a scrape costs with a thousand clients, and what they notice of it
#   make metrics-cost  the share of a request's work that its metrics are
#   make deploy-selftest  mistakes put into all of that on purpose: each check must see its own
#   make manifests     deploy/kubernetes, the chart's copies, the dashboard and the reference, written anew from their sources
#   make sizing   memory, processor time and connections that respmux needs: the numbers of deploy/sizing.md
#   make static   the static binary of the image, tried in an empty root directory
#   make image    the OCI image, built, inspected and run without a container engine
#   make deb      the Debian package, and the life of an installation in a root directory of its own
#   make handover processes that take over from one another under clients that connect all the time

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

# make storm: for how long, or up to how many replies (STORM_REPLIES=1e8), and with how many clients; tests/storm/main.rs names further settings.
# Only for that target: `make test` has short storms of its own.
storm: export STORM_SECONDS := $(or $(STORM_SECONDS),$(if $(STORM_REPLIES),604800,120))
storm: export STORM_CLIENTS := $(or $(STORM_CLIENTS),300)
STORM_ARGS ?=

# make hostile: how many inputs, from which seed; `make test` sends fewer.
hostile: export HOSTILE_INPUTS := $(or $(HOSTILE_INPUTS),50000)
hostile: export HOSTILE_SEED := $(or $(HOSTILE_SEED),$(shell date +%s))

# make suite: a checkout of Redis' repository at tag 7.0.15; tests/suite/run.py names further settings.
export REDIS_SOURCE ?=

# make suite-redis-py: a checkout of redis-py's repository at tag v5.2.1; tests/suite/redis_py.py names further settings.
export REDIS_PY_SOURCE ?=

# make jobs: how many jobs each system carries, and respmux' cap; tests/jobs/run.py names further settings.
export JOBS ?= 10000
export JOBS_CAP ?= 32

# make state: one scenario by its name; tests/state/main.rs names the settings.
STATE_ARGS ?=

.PHONY: run build demo test lint bench micro cost storm seeded state suite suite-redis-py jobs memory-wall head-of-line static clean faults restarts reload rolling hostile identities fuzz sim audit deploy-check status-page prometheus scrape-cost metrics-cost
.PHONY: image deb handover

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
	tests/status-page/if-there.sh

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items
	deploy/validate.sh

bench: build
	benches/peers/run.sh
	$(MAKE) --no-print-directory micro

cost: build
	.ci/need redis-server=redis-server redis-benchmark=redis-tools python3=python3
	benches/peers/cost.py

micro:
	$(CARGO) bench --locked $(foreach name,$(MICRO),--bench $(name)) -- $(MICRO_ARGS)

storm:
	tests/setup.sh
	$(CARGO) test --release --locked --test storm -- --ignored --nocapture $(STORM_ARGS)

seeded:
	tests/setup.sh
	$(CARGO) test --locked --features seeded-bugs --test storm seeded_bugs -- --nocapture

hostile:
	tests/setup.sh
	$(CARGO) test --release --locked --test it -- hostile:: --nocapture

identities:
	tests/setup.sh
	$(CARGO) test --release --locked --test it identities:: -- --ignored --nocapture

suite: build
	.ci/need redis-server=redis-server redis-cli=redis-tools tclsh=tcl python3=python3
	tests/suite/run.py

suite-redis-py: build
	.ci/need redis-server=redis-server python3=python3
	tests/suite/redis_py.py

jobs: build
	tests/jobs/run.sh

state:
	tests/setup.sh
	$(CARGO) test --release --locked --test state -- --ignored --nocapture --test-threads 1 $(STATE_ARGS)

memory-wall: build
	.ci/need redis-server=redis-server python3=python3
	tests/limits/wall.py

head-of-line: build
	.ci/need redis-server=redis-server python3=python3
	tests/limits/head.py

faults:
	tests/setup.sh
	$(CARGO) test --release --locked --test faults -- --ignored --nocapture faults_full

reload:
	tests/setup.sh
	$(CARGO) test --release --locked --test it -- --ignored --nocapture reload::full

restarts:
	tests/setup.sh
	$(CARGO) test --release --locked --test faults -- --ignored --nocapture restarts_full

rolling:
	tests/setup.sh
	$(CARGO) test --release --locked --test rolling -- --ignored --nocapture rolling_full

fuzz:
	tests/setup.sh
	$(CARGO) test --profile fuzz --locked --test fuzz -- --ignored --nocapture

# SIM_SEEDS and SIM_FIRST choose the seeds, SIM_SEED=n with `cargo test --lib sim::tests::some` replays one.
sim:
	SIM_SWEEPS=$(or $(SIM_SWEEPS),100) $(CARGO) test --profile fuzz --locked --lib sim:: -- --include-ignored --nocapture
	$(CARGO) test --profile fuzz --locked --lib --features seeded-bugs seeded_bugs_are_seen -- --nocapture

audit:
	deploy/audit.sh

deploy-check:
	deploy/check.sh

status-page:
	tests/setup.sh
	.ci/need 'chromium|chromium-browser=chromium'
	$(CARGO) build --locked
	node tests/status-page/run.mjs --seconds 12 $(STATUS_ARGS)

prometheus:
	.ci/need redis-server=redis-server python3=python3
	$(CARGO) build --locked
	RESPMUX=$(TARGET)/debug/respmux tests/metrics/alert.py

scrape-cost: build
	.ci/need redis-server=redis-server python3=python3
	tests/metrics/scrape.py

metrics-cost: build
	.ci/need redis-server=redis-server redis-benchmark=redis-tools valgrind=valgrind python3=python3
	tests/metrics/cost.py
.PHONY: deploy-selftest manifests sizing

deploy-selftest:
	deploy/selftest.py

manifests:
	deploy/manifests.sh

sizing: build
	.ci/need redis-server=redis-server redis-benchmark=redis-tools openssl=openssl python3=python3
	benches/sizing.py

static:
	deploy/static.sh

image:
	deploy/image.sh

deb:
	package=$$(deploy/debian/build.sh) && deploy/debian/check.sh "$$package"

# HANDOVERS and ACTIVATIONS say how many of each.
handover:
	tests/setup.sh
	$(CARGO) test --release --locked --test it -- --ignored --nocapture handover_full

clean:
	$(CARGO) clean
