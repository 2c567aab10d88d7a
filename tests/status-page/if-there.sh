#!/usr/bin/env bash
# For `make test`: the status page in a browser, where there is one. `make prove WHAT=status-page` brings one.
set -euo pipefail
cd "$(dirname "$0")/../.."

node --check src/admin/page/script.js
for browser in chromium chromium-browser; do
    if command -v "$browser" >/dev/null; then
        cargo build --locked --quiet --bin respmux
        CHROMIUM=$browser exec node tests/status-page/run.mjs --seconds 4
    fi
done
echo 'status page: no Chromium here; make prove WHAT=status-page installs one and looks at the page with it'
