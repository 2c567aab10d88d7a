#!/usr/bin/env bash
# Everything that is deployed, without a cluster: the chart rendered in each shape, Kustomize, manifests, alerts,
# dashboard, systemd unit.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
tools=$target/deploy-venv/bin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

deploy/validate.sh
.ci/venv "$target/deploy-venv" -r deploy/requirements.txt -r deploy/check-requirements.txt

promtool=${PROMTOOL:-$(command -v promtool || true)}
if [ -z "$promtool" ]; then
    promtool=$target/prometheus/usr/bin/promtool
    # Unpacked and not installed, so that no service starts.
    [ -x "$promtool" ] || (
        cd "$work"
        apt-get download -q prometheus
        dpkg -x prometheus_*.deb "$OLDPWD/$target/prometheus"
    ) >&2
fi

echo '== the chart'
"$tools/check-jsonschema" --check-metaschema deploy/helm/respmux/values.schema.json
"$tools/python" deploy/helm/render.py "$work/chart"

echo '== Kustomize'
mkdir "$work/kustomize"
for place in base overlays/ha examples/sidecar; do
    "$tools/kubectl" kustomize "deploy/kustomize/$place" >"$work/kustomize/${place//\//-}.yaml"
done

echo '== what Kubernetes says of it'
for version in 1.29 1.33 1.37; do
    for file in "$work"/chart/*/*.yaml "$work"/kustomize/*.yaml; do
        # A field of Kubernetes 1.30; and the kinds of the Prometheus operator are not Kubernetes' own.
        case $version:$file in 1.29:*/zones/* | *:*/monitoring.yaml) continue ;; esac
        "$tools/kubernetes-validate" --strict --quiet --kubernetes-version "$version" "$file"
    done
done
# Left out: a CPU limit throttles a proxy at its peak; digest and pull policy are the user's choice.
"$tools/checkov" --skip-download --quiet --compact --framework kubernetes \
    --skip-check CKV_K8S_11,CKV_K8S_15,CKV_K8S_43 -d "$work/chart"

echo '== what respmux says of it'
for case in "$work"/chart/*/ "$work"/kustomize/*.yaml; do
    "$tools/python" deploy/check_manifests.py "$target/debug/respmux" "$case"
done

echo '== Prometheus and Grafana'
"$promtool" check rules deploy/prometheus/rules.yml
"$promtool" test rules deploy/prometheus/rules_test.yml
"$tools/python" deploy/grafana/build.py --check deploy/grafana/respmux.json
"$tools/python" deploy/check_names.py src/telemetry/catalogue.rs deploy/prometheus/rules.yml deploy/grafana/respmux.json
while read -r alert; do
    grep -qx "### $alert" deploy/prometheus/README.md || {
        echo "deploy/prometheus/README.md has no entry for $alert" >&2
        exit 1
    }
done < <(sed -n 's/^ *- alert: //p' deploy/prometheus/rules.yml)

echo '== the schema of the configuration'
"$target/debug/respmux" config schema >"$work/respmux.schema.json"
"$tools/check-jsonschema" --check-metaschema "$work/respmux.schema.json"
"$tools/check-jsonschema" --schemafile "$work/respmux.schema.json" deploy/config.example.toml deploy/kustomize/base/respmux.toml
cmp <("$target/debug/respmux" config reference) deploy/configuration.md

echo '== systemd'
if command -v systemd-analyze >/dev/null; then
    # Where respmux is not installed, a program that is stands in for it.
    for unit in service socket; do
        sed 's#/usr/bin/respmux#/usr/bin/true#' "deploy/systemd/respmux.$unit" >"$work/respmux.$unit"
    done
    # `verify` prints what is wrong and still returns 0.
    said=$(systemd-analyze verify --man=no "$work/respmux.service" "$work/respmux.socket" 2>&1)
    [ -z "$said" ] || {
        echo "$said" >&2
        exit 1
    }
    systemd-analyze security --offline=yes --threshold=20 "$work/respmux.service" | tail -1
fi
echo 'deploy/check.sh: all fine'
