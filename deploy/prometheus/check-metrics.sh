#!/bin/sh
# Lints the metrics with `promtool check metrics`, which must have nothing to say.
#
#   check-metrics.sh             what the tests render, with every metric in it
#   check-metrics.sh URL|FILE    a running proxy, e.g. http://127.0.0.1:9380/metrics, or a saved scrape
#
# promtool is taken from PROMTOOL or PATH; else from Debian's package `prometheus`, unpacked into a
# temporary directory and not installed, so that no service starts.
set -eu

temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

promtool=${PROMTOOL:-$(command -v promtool || true)}
if [ -z "$promtool" ]; then
    (cd "$temporary" && apt-get download -q prometheus && dpkg -x prometheus_*.deb unpacked) >&2
    promtool=$temporary/unpacked/usr/bin/promtool
fi

case ${1-} in
'')
    cd "$(dirname "$0")/../.."
    PROMTOOL=$promtool cargo test --lib -- --ignored --exact \
        telemetry::tests::promtool_finds_nothing_to_say
    exit
    ;;
http://* | https://*) curl -sSf --max-time 10 "$1" >"$temporary/scrape" ;;
*) cp "$1" "$temporary/scrape" ;;
esac

# promtool says nothing of an empty scrape.
grep -q '^respmux_build_info' "$temporary/scrape" || {
    echo "no respmux metrics in $1" >&2
    exit 1
}
said=$("$promtool" check metrics <"$temporary/scrape" 2>&1) || {
    echo "$said"
    exit 1
}
[ -z "$said" ] || {
    echo "$said"
    exit 1
}
echo "promtool has nothing to say about $(grep -c '^# TYPE' "$temporary/scrape") metrics"
