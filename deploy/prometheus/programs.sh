#!/bin/sh
# Prints the directory with prometheus and promtool: that of PROMTOOL, of PATH, or of Debian's package `prometheus`,
# unpacked below target/ once and not installed, so that no service starts.
set -eu

if [ -n "${PROMTOOL-}" ]; then
    dirname "$PROMTOOL"
    exit
fi
if command -v promtool >/dev/null && command -v prometheus >/dev/null; then
    dirname "$(command -v promtool)"
    exit
fi
cd "$(dirname "$0")/../.."
unpacked=${CARGO_TARGET_DIR:-$PWD/target}/prometheus
if [ ! -x "$unpacked/usr/bin/promtool" ] || [ ! -x "$unpacked/usr/bin/prometheus" ]; then
    mkdir -p "$unpacked"
    (
        cd "$unpacked"
        apt-get download -q prometheus || { apt-get update -q && apt-get download -q prometheus; }
        dpkg -x prometheus_*.deb .
        rm prometheus_*.deb
    ) >&2
fi
echo "$unpacked/usr/bin"
