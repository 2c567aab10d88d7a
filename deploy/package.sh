#!/usr/bin/env bash
# What is shipped. `make package` lists it, `make package WHAT=deb` makes one. An entry is its line in that list and,
# below it, the function that runs it.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=.ci/menu
. .ci/menu

entry static '5 min' 'the static binary of the image, tried in an empty root directory'
static() {
    deploy/static.sh
}

entry image '5 min' 'the OCI image in target/image/oci: built, inspected and run without a container engine' BINARY
image() {
    deploy/image.sh
}

entry deb '5 min' 'the Debian package in target/debian, and the life of an installation in a root directory of its own' \
    BINARY PACKAGE_REVISION
deb() {
    local package
    package=$(deploy/debian/build.sh)
    deploy/debian/check.sh "$package"
}

entry manifests '1 min' "deploy/kubernetes, the chart's copies, the dashboard and the reference, written anew from their sources"
manifests() {
    deploy/manifests.sh
}

menu package "$@"
