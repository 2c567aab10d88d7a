#!/usr/bin/env bash
# Installs what the demo needs, then runs it; see demo.py for its settings.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}

.ci/need 'redis-server|valkey-server=redis-server' ab=apache2-utils python3=python3
.ci/venv "$target/demo-venv-5" -r benches/demo/requirements.txt redis==5.2.1
.ci/venv "$target/demo-venv-8" -r benches/demo/requirements.txt redis==8.1.0
exec python3 benches/demo/demo.py "$@"
