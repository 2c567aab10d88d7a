#!/usr/bin/env bash
# Installs the job systems under target/ and runs them; see run.py for the settings.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}

BULLMQ=6.7.0
IOREDIS=6.0.0

.ci/need redis-server=redis-server python3=python3 node=nodejs npm=npm
.ci/venv "$target/jobs-venv" rq==3.0.0 celery==5.7.0 kombu==5.7.0 redis==8.1.0 packaging==26.3
if [ "$(cat "$target/jobs-node/wanted" 2>/dev/null)" != "bullmq@$BULLMQ ioredis@$IOREDIS" ]; then
    mkdir -p "$target/jobs-node"
    # Without the optional native parts: nothing is compiled.
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$target/jobs-node" \
        "bullmq@$BULLMQ" "ioredis@$IOREDIS"
    echo "bullmq@$BULLMQ ioredis@$IOREDIS" >"$target/jobs-node/wanted"
fi
exec python3 tests/jobs/run.py "$@"
