#!/usr/bin/env bash
# Everything that is deployed, without a cluster: charts rendered in each shape, Kustomize, manifests, the admission
# policy, alerts, dashboard, units, documents. Under three minutes.
#
#   check.sh            every step
#   check.sh STEP...    some of them: files charts kustomize kubernetes crds checkov sidecar configurations
#                       prometheus alert names runbook documents schema systemd
#
# RESPMUX is the program that is asked (target/debug/respmux).
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
tools=$target/deploy-venv/bin
respmux=${RESPMUX:-$target/debug/respmux}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Shell, Python, YAML, Dockerfile; and the program that some steps ask.
files() {
    deploy/validate.sh
}

# Once, whichever step comes first.
rendered() {
    [ ! -d "$work/chart" ] || return 0
    "$tools/python" deploy/helm/render.py "$work/chart"
    mkdir "$work/kustomize"
    for place in base overlays/ha overlays/daemonset examples/sidecar; do
        "$tools/kubectl" kustomize "deploy/kustomize/$place" >"$work/kustomize/${place//\//-}.yaml"
    done
}

charts() {
    "$tools/check-jsonschema" --check-metaschema deploy/helm/respmux/values.schema.json
    rendered
}

# What is in deploy/kubernetes is what Kustomize makes.
kustomize() {
    rendered
    "$tools/python" deploy/render.py "$tools/kubectl" --check
}

# Against the oldest release with native sidecars, the one that made them stable, and the newest.
kubernetes() {
    rendered
    local version
    for version in 1.29 1.33 1.37; do
        # Left out: a field of Kubernetes 1.30; and the kinds of the Prometheus operator, which are not Kubernetes' own.
        find "$work/chart" "$work/kustomize" deploy/kubernetes/{deployment,daemonset,sidecar}.yaml -name '*.yaml' \
            ! -name monitoring.yaml | if [ $version = 1.29 ]; then grep -v /zones/; else cat; fi |
            xargs "$tools/kubernetes-validate" --strict --quiet --kubernetes-version "$version"
    done
    # The policy is newer: v1 since 1.36, v1beta1 since 1.34.
    "$tools/kubernetes-validate" --strict --quiet --kubernetes-version 1.37 deploy/kubernetes/sidecar-injection.yaml
    sed 's#k8s.io/v1$#k8s.io/v1beta1#' deploy/kubernetes/sidecar-injection.yaml >"$work/beta.yaml"
    "$tools/kubernetes-validate" --strict --quiet --kubernetes-version 1.34 "$work/beta.yaml"
}

# The kinds of the Prometheus operator.
crds() {
    rendered
    "$tools/python" deploy/check_crds.py deploy/prometheus/podmonitor.yaml "$work"/chart/*/monitoring.yaml
}

# Left out: a CPU limit throttles a proxy at its peak; digest and pull policy are the user's choice; a network policy of
# the example's application and of the test pod, which are clients.
checkov() {
    rendered
    mkdir "$work/checkov"
    cp -r "$work/chart" deploy/kubernetes "$work/checkov"
    "$tools/checkov" --skip-download --quiet --compact --framework kubernetes \
        --skip-check CKV_K8S_11,CKV_K8S_15,CKV_K8S_43,CKV2_K8S_6 -d "$work/checkov"
}

sidecar() {
    rendered
    "$tools/python" deploy/check_sidecar.py "$tools/kubectl" "$work/chart"
}

# What is rendered and what the documents show is something respmux knows.
configurations() {
    rendered
    local texts
    mapfile -t texts < <(grep -l '^```toml' deploy/*.md)
    "$tools/python" deploy/check_manifests.py "$respmux" "$work"/chart/*/ "$work"/kustomize/*.yaml \
        deploy/kustomize/base/respmux.toml "${texts[@]}"
}

prometheus() {
    local promtool
    promtool=$(deploy/prometheus/programs.sh)/promtool
    "$promtool" check rules deploy/prometheus/rules.yml
    "$promtool" test rules deploy/prometheus/rules_test.yml
}

# A real Prometheus, and an upstream that goes away.
alert() {
    .ci/need redis-server=redis-server
    RESPMUX=$respmux tests/metrics/alert.py
}

# Every metric and label value that is asked for is exported, and the dashboard is what its script writes.
names() {
    "$tools/python" deploy/grafana/build.py --check deploy/grafana/respmux.json
    "$tools/python" deploy/check_names.py src/telemetry/catalogue.rs deploy/prometheus/rules.yml \
        deploy/prometheus/rules_test.yml deploy/grafana/respmux.json
}

# Every alert has an entry that says what it means, where to look, what it comes from and what to do; no entry is stale.
runbook() {
    "$tools/python" deploy/check_runbook.py deploy/prometheus/rules.yml deploy/prometheus/README.md
}

# Metrics, keys, PROXY's subcommands, make targets and links in the documents.
documents() {
    local texts
    mapfile -t texts < <(git ls-files --cached --others --exclude-standard 'deploy/*.md' README.md SECURITY.md tests/README.md)
    "$tools/python" deploy/check_docs.py "$respmux" "${texts[@]}"
}

schema() {
    "$respmux" config schema >"$work/respmux.schema.json"
    "$tools/check-jsonschema" --check-metaschema "$work/respmux.schema.json"
    "$tools/check-jsonschema" --schemafile "$work/respmux.schema.json" deploy/config.example.toml deploy/kustomize/base/respmux.toml
    cmp <("$respmux" config reference) deploy/configuration.md
}

systemd() {
    if command -v systemd-analyze >/dev/null; then
        # Where respmux is not installed, a program that is stands in for it.
        local unit
        mkdir "$work/units"
        for unit in deploy/systemd/respmux.*; do
            sed 's#/usr/bin/respmux#/usr/bin/true#' "$unit" >"$work/units/${unit##*/}"
        done
        # `verify` prints what is wrong and still returns 0.
        local said
        said=$(systemd-analyze verify --man=no "$work"/units/* 2>&1)
        [ -z "$said" ] || {
            echo "$said" >&2
            exit 1
        }
        systemd-analyze security --offline=yes --threshold=20 "$work/units/respmux.service" | tail -1
    fi
}

.ci/venv "$target/deploy-venv" -r deploy/requirements.txt -r deploy/check-requirements.txt
[ $# -gt 0 ] || set -- files charts kustomize kubernetes crds checkov sidecar configurations prometheus alert names runbook documents schema systemd
for step in "$@"; do
    echo "== $step"
    start=$SECONDS
    "$step"
    echo "== $step: $((SECONDS - start)) s"
done
echo 'deploy/check.sh: all fine'
