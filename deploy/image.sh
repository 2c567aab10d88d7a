#!/usr/bin/env bash
# Builds the image without a container engine, looks at it, and runs it: target/image/oci is an OCI layout.
#
# What stands in deploy/Dockerfile from FROM scratch on is built by buildah; its first stage is done here, by
# deploy/static.sh. BINARY=path takes a static program that is built already. The image is pushed from there with
# `skopeo copy oci:target/image/oci:latest docker://…`.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
.ci/need buildah=buildah skopeo=skopeo umoci=umoci redis-server=redis-server python3=python3

fail() {
    echo "deploy/image.sh: $*" >&2
    exit 1
}

work=$target/image
rm -rf "$work/context" "$work/oci" "$work/bundle"
mkdir -p "$work/context"
if [ -z "${BINARY:-}" ]; then
    deploy/static.sh >&2
    BINARY=$target/$(rustc --print host-tuple)/release/respmux
fi
cp "$BINARY" "$work/context/respmux"
cargo metadata --locked --format-version 1 --filter-platform "$(rustc --print host-tuple)" |
    python3 deploy/sbom.py >"$work/context/sbom.cdx.json"
sed -n '/^FROM scratch/,$p' deploy/Dockerfile | sed 's/--from=build //' >"$work/Dockerfile"

version=$(sed -n '0,/^version = /s/^version = "\(.*\)"/\1/p' Cargo.toml)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
stamp=$(git log -1 --format=%ct 2>/dev/null || echo 0)
# Nothing here needs an engine, a daemon, or what other builds on this machine have stored.
storage=(--root "$work/storage" --runroot "$work/run" --storage-driver vfs)
build() { buildah "${storage[@]}" "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; fail "buildah $1"; }; }
build bud --isolation chroot --format oci --timestamp "$stamp" --build-arg VERSION="$version" \
    --build-arg REVISION="$revision" -f "$work/Dockerfile" -t respmux:latest "$work/context"
build push respmux:latest "oci:$work/oci:latest"
build rmi respmux:latest

# What an engine would see of it.
skopeo inspect --config "oci:$work/oci:latest" >"$work/config.json"
skopeo inspect "oci:$work/oci:latest" >"$work/image.json"
python3 - "$work/config.json" "$version" "$revision" <<'PYTHON' || fail 'the image is not what it must be'
import json, sys

config = json.load(open(sys.argv[1]))["config"]
labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
wanted = {
    "User": "65532:65532",
    "Entrypoint": ["/respmux"],
    "StopSignal": "SIGTERM",
    "ExposedPorts": {"6380/tcp": {}, "9380/tcp": {}},
}
wrong = [f"{name}: {config.get(name)}" for name, value in wanted.items() if config.get(name) != value]
wrong += [f"label {name}" for name in ("title", "description", "licenses", "source") if not labels.get(name)]
wrong += [] if [labels.get("version"), labels.get("revision")] == sys.argv[2:] else ["version or revision"]
sys.exit("\n".join(wrong) or 0)
PYTHON

# Unpacked and run: nothing but the program is in its root directory, and it is nobody's user.
as_root=()
rootless=()
if [ "$(id -u)" -ne 0 ]; then
    as_root=(unshare --map-root-user)
    rootless=(--rootless)
fi
umoci unpack "${rootless[@]}" --image "$work/oci:latest" "$work/bundle" >"$work/log" 2>&1 || { cat "$work/log" >&2; fail 'umoci unpack'; }
root=$work/bundle/rootfs
[ "$(cd "$root" && find . -type f | sort | tr '\n' ' ')" = './respmux ./sbom.cdx.json ' ] || fail "other files: $(find "$root")"
python3 deploy/sbom.py --check "$root/sbom.cdx.json"
inside=("${as_root[@]}" chroot)
[ "$(id -u)" -ne 0 ] || inside+=(--userspec=65532:65532)
inside+=("$root" /respmux)

run=$(mktemp -d)
stop() {
    [ -z "${proxy:-}" ] || kill "$proxy" 2>/dev/null || true
    [ -z "${server:-}" ] || kill "$server" 2>/dev/null || true
    rm -rf "$run"
}
trap stop EXIT
free() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
redis_port=$(free) port=$(free) admin=$(free)
redis-server --port "$redis_port" --bind 127.0.0.1 --save '' --dir "$run" >"$run/redis" 2>&1 &
server=$!
at=(--listen "127.0.0.1:$port" --admin "127.0.0.1:$admin")
"${inside[@]}" run "${at[@]}" --upstream "redis://127.0.0.1:$redis_port" >"$run/respmux" 2>&1 &
proxy=$!
for _ in $(seq 100); do
    "${inside[@]}" healthcheck --ready "${at[@]}" >"$run/health" 2>&1 && up=true && break
    sleep 0.1
done
[ -n "${up:-}" ] || { cat "$run/respmux" "$run/health" >&2; fail 'it does not become healthy'; }
pong=$("${inside[@]}" ping "${at[@]}")
[[ $pong == PONG* ]] || fail "ping: $pong"
user=$(stat -c %u "/proc/$proxy")
kill -TERM "$proxy"
wait "$proxy" || fail "it ended with $?"
proxy=

python3 - "$work" "$root/respmux" "$user" <<'PYTHON'
import json, os, sys

work, program, user = sys.argv[1:]
image = json.load(open(f"{work}/image.json"))
blobs = f"{work}/oci/blobs/sha256"
size = sum(os.path.getsize(f"{blobs}/{name}") for name in os.listdir(blobs))
print(json.dumps({
    "image": image["Labels"]["org.opencontainers.image.version"],
    "digest": image["Digest"],
    "layers": len(image["Layers"]),
    "bytes": size,
    "program_bytes": os.path.getsize(program),
    "sbom_components": len(json.load(open(f"{os.path.dirname(program)}/sbom.cdx.json"))["components"]),
    "ran_as": int(user),
    "healthcheck": "ok",
    "ping": "ok",
}, separators=(",", ":")))
PYTHON
