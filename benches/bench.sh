#!/usr/bin/env bash
# The measurements. `make bench WHAT=list` lists them, `make bench WHAT=sizing` runs one, `make bench` peers and micro.
# An entry is its line in that list and, below it, the function that runs it. Times are of 2 cores, without the build.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=.ci/menu
. .ci/menu

entry peers '10 min' 'Redis alone, respmux, nutcracker, Envoy and haproxy side by side: throughput, latency, CPU, memory' \
    BENCH_ROUNDS BENCH_SCALE BENCH_ONLY
peers() {
    build_release
    benches/peers/run.sh
}

entry micro '1 min' 'the micro-benchmarks of parser and router' MICRO MICRO_ARGS
micro() {
    local name benches=()
    for name in ${MICRO:-scan route}; do
        benches+=(--bench "$name")
    done
    # shellcheck disable=SC2086 # several arguments
    "$CARGO" bench --locked "${benches[@]}" -- ${MICRO_ARGS:---warm-up-time 0.5 --measurement-time 2 --noplot}
}

entry cost '10 min' 'what checking every reply costs: integrity loose, normal, strict, and BEFORE, the path of another build' \
    BEFORE COST_ROUNDS COST_REQUESTS
cost() {
    .ci/need redis-server=redis-server redis-benchmark=redis-tools python3=python3
    build_release
    benches/peers/cost.py
}

entry metrics-cost '5 min' "the share of a request's work that its metrics are" COST_ROUNDS COST_REQUESTS
metrics-cost() {
    .ci/need redis-server=redis-server redis-benchmark=redis-tools valgrind=valgrind python3=python3
    build_release
    tests/metrics/cost.py
}

entry scrape-cost '2 min' 'what a scrape costs with a thousand clients, and what they notice of it' \
    SCRAPE_CLIENTS SCRAPE_ROUNDS SCRAPE_SECONDS
scrape-cost() {
    .ci/need redis-server=redis-server python3=python3
    build_release
    tests/metrics/scrape.py
}

entry sizing '2 min' 'memory, processor time and connections that respmux needs: the numbers of deploy/sizing.md' \
    SIZING_CLIENTS SIZING_TLS SIZING_REQUESTS
sizing() {
    .ci/need redis-server=redis-server redis-benchmark=redis-tools openssl=openssl python3=python3
    build_release
    benches/sizing.py
}

menu bench "$@"
