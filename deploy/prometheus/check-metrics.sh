#!/bin/sh
# Lints the metrics with `promtool check metrics`, which must have nothing to say.
#
#   check-metrics.sh             what the tests render, with every metric in it
#   check-metrics.sh URL|FILE    a running proxy, e.g. http://127.0.0.1:9380/metrics, or a saved scrape
#
# promtool is the one that programs.sh finds.
set -eu

temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT

promtool=$("$(dirname "$0")/programs.sh")/promtool

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
