#!/usr/bin/env bash
# Builds the binary that goes into the image, and shows that it needs nothing else: it runs in an
# empty root directory. The target is named on purpose: only then RUSTFLAGS leave build scripts alone.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
host=$(rustc --print host-tuple)

RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked --no-default-features --target "$host"
binary=$target/$host/release/respmux

if ldd "$binary" 2>&1 | grep -q '=>'; then
    echo "deploy/static.sh: $binary is not static" >&2
    exit 1
fi
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
cp "$binary" "$root/respmux"
enter=(chroot "$root")
[ "$(id -u)" -eq 0 ] || enter=(unshare --map-root-user chroot "$root")
"${enter[@]}" /respmux --version
"${enter[@]}" /respmux check >/dev/null
echo "deploy/static.sh: $binary, $(stat -c %s "$binary") bytes, runs in an empty root directory"
