#!/usr/bin/env bash
# The long proofs. `make prove` lists them, `make prove WHAT=storm` runs one; several names run one after the other.
# An entry is its line in that list and, below it, the function that runs it. Times are of 2 cores, without the build.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=.ci/menu
. .ci/menu
target=${CARGO_TARGET_DIR:-target}

# cargo_test ARGUMENT...: a test against real servers.
cargo_test() {
    tests/setup.sh
    "$CARGO" test --locked "$@"
}

entry storm '2 min' 'every reply reaches the client that asked: unique tokens, an exact model, killed connections, three servers' \
    STORM_SECONDS STORM_REPLIES STORM_CLIENTS=300 STORM_SEED STORM_WORKERS STORM_CONNECTIONS STORM_ARGS
storm() {
    # So many replies (1e8 will do) take as long as they take.
    local most=${STORM_REPLIES:+604800}
    export STORM_SECONDS=${STORM_SECONDS:-${most:-120}}
    # shellcheck disable=SC2086 # several arguments, or none
    cargo_test --release --test storm -- --ignored --nocapture ${STORM_ARGS:-}
}

entry seeded '10 min' 'the storm sees six bugs that are built into respmux on purpose, with each of three seeds' STORM_BUG STORM_SEEDS SEEDED_EVERY STORM_CONNECTIONS
seeded() {
    cargo_test --features seeded-bugs --test storm seeded_bugs -- --nocapture
}

entry sim '5 min' 'a whole worker in simulated time over 100,000 seeds, and cut off or dropped at every await point' \
    SIM_SEEDS SIM_FIRST SIM_SWEEPS=100
sim() {
    # One seed again: SIM_SEED=n cargo test --lib sim::tests::some
    "$CARGO" test --profile fuzz --locked --lib sim:: -- --include-ignored --nocapture
    "$CARGO" test --profile fuzz --locked --lib --features seeded-bugs seeded_bugs_are_seen -- --nocapture
}

entry faults '1 min' 'harm to connections at every byte of a reply, on both sides of respmux: nobody gets a wrong reply' \
    FAULTS_SEED FAULTS_STEP FAULTS_RANDOM
faults() {
    cargo_test --release --test faults -- --ignored --nocapture faults_full
}

entry restarts '4 min' 'the server is killed and stopped again and again under writers: no acknowledged write is lost or doubled' \
    RESTARTS_KILLS RESTARTS_STOPS
restarts() {
    cargo_test --release --test faults -- --ignored --nocapture restarts_full
}

entry fuzz '15 min' 'parsers, router and addresses under a hundred million mutated inputs, beside models and real servers' \
    FUZZ_EXECUTIONS FUZZ_FRAMES FUZZ_SEED FUZZ_TARGET FUZZ_INPUT
fuzz() {
    cargo_test --profile fuzz --test fuzz -- --ignored --nocapture
}

entry hostile '1 min' 'bad inputs, every command before login, every option of a lent connection: answered as the server answers' \
    HOSTILE_INPUTS=50000 HOSTILE_SEED
hostile() {
    export HOSTILE_SEED=${HOSTILE_SEED:-$(date +%s)}
    cargo_test --release --test it -- hostile:: --nocapture
}

entry identities '3 min' 'users never share a connection: a million operations of clients that switch between them' \
    IDENTITY_OPERATIONS IDENTITY_SEED
identities() {
    cargo_test --release --test it identities:: -- --ignored --nocapture
}

entry state '15 min' 'blocking pops, subscribers, transactions and their races, directly and through respmux' \
    STATE_ARM STATE_SECONDS STATE_CLIENTS STATE_ROUNDS STATE_RATE STATE_DEPTH STATE_WORKERS STATE_CAP STATE_SET STATE_SEED STATE_BARS STATE_ARGS
state() {
    # shellcheck disable=SC2086 # one scenario by its name, or none
    cargo_test --release --test state -- --ignored --nocapture --test-threads 1 ${STATE_ARGS:-}
}

entry reload '3 min' '100 reloads, 50 reconnects and 20 swaps of the upstream under load: no command fails' \
    RELOADS RECONNECTS SWAPS
reload() {
    cargo_test --release --test it -- --ignored --nocapture reload::full
}

entry handover '1 min' 'processes take over from one another while clients connect all the time: no connect is refused' \
    HANDOVERS ACTIVATIONS
handover() {
    cargo_test --release --test it -- --ignored --nocapture handover_full
}

entry rolling '5 min' 'a rolling restart of three replicas under callers of real client libraries: no command fails' \
    ROLLING_ROUNDS ROLLING_CALLERS
rolling() {
    cargo_test --release --test rolling -- --ignored --nocapture rolling_full
}

entry memory-wall '3 min' 'clients that do not read or do not finish, against a limit of 128 MiB: the others notice nothing' \
    WALL_LIMIT_MIB WALL_READERS WALL_SUBSCRIBERS WALL_WRITERS WALL_RATE WALL_SECONDS
memory-wall() {
    .ci/need redis-server=redis-server python3=python3
    build_release
    tests/limits/wall.py
}

entry head-of-line '3 min' 'what one bad client costs the others behind the same respmux, and how equal clients share it' \
    HEAD_SECONDS HEAD_KEYS HEAD_ONLY
head-of-line() {
    .ci/need redis-server=redis-server python3=python3
    build_release
    tests/limits/head.py
}

entry suite '10 min' "Redis' own test suite, directly and through respmux; REDIS_SOURCE is a checkout of Redis 7.0.15" \
    REDIS_SOURCE SUITE_UNITS SUITE_SECONDS SUITE_JOBS SUITE_ARGS SUITE_BASELINE
suite() {
    .ci/need redis-server=redis-server redis-cli=redis-tools tclsh=tcl python3=python3
    build_release
    tests/suite/run.py
}

entry suite-redis-py '10 min' "redis-py's own test suite, both ways; REDIS_PY_SOURCE is a checkout of redis-py 5.2.1" \
    REDIS_PY_SOURCE SUITE_SERVER SUITE_PROTOCOL SUITE_ARGS
suite-redis-py() {
    .ci/need redis-server=redis-server python3=python3
    build_release
    tests/suite/redis_py.py
}

entry jobs '15 min' 'RQ, Celery and BullMQ with workers that are killed, both ways: no job is lost' \
    JOBS JOBS_CAP JOBS_ONLY JOBS_ARMS JOBS_WORKERS JOBS_KILL JOBS_KILLS JOBS_SECONDS JOBS_QUIET
jobs() {
    build_release
    tests/jobs/run.sh
}

entry status-page '1 min' 'the status page in a real browser, under load; pictures of it in target/status-page' STATUS_ARGS
status-page() {
    tests/setup.sh
    .ci/need 'chromium|chromium-browser=chromium'
    "$CARGO" build --locked
    # shellcheck disable=SC2086 # several arguments, or none
    node tests/status-page/run.mjs --seconds 12 ${STATUS_ARGS:-}
}

entry prometheus '1 min' 'a real Prometheus scrapes respmux, the upstream goes away, and the alert fires'
prometheus() {
    .ci/need redis-server=redis-server python3=python3
    "$CARGO" build --locked
    RESPMUX=$target/debug/respmux tests/metrics/alert.py
}

entry audit '1 min' 'the dependencies: advisories, licences, duplicates, sources, and the bill of materials' AUDIT_ARGS
audit() {
    deploy/audit.sh
}

entry deploy-selftest '5 min' 'each check of deploy-check sees a mistake that is put in for it (after make deploy-check)'
deploy-selftest() {
    deploy/selftest.py
}

menu prove "$@"
