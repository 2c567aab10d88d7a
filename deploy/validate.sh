#!/usr/bin/env bash
# Checks every file that is not Rust: shell, Python, YAML, the Dockerfile, the Kubernetes manifests.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
tools=$target/lint-venv/bin

.ci/venv "$target/lint-venv" -r deploy/requirements.txt

mapfile -t scripts < <(git ls-files --cached --others --exclude-standard -- '.ci/*' '*.sh' 'deploy/debian/p*')
"$tools/shellcheck" "${scripts[@]}"

"$tools/ruff" check --no-cache --quiet --select E,F,I,B,UP,SIM,PL --ignore PLR2004,PLR0913,E501 benches deploy tests/suite tests/jobs tests/metrics
"$tools/ruff" format --no-cache --quiet --line-length 120 --check benches deploy tests/suite tests/jobs tests/metrics

"$tools/yamllint" --strict -d '{extends: default, rules: {line-length: {max: 160}, document-start: disable, braces: {max-spaces-inside: 1}}, ignore: [templates/]}' deploy

"$tools/hadolint" deploy/Dockerfile

# The oldest release with native sidecars, the one that made them stable, and the newest.
for version in 1.29 1.33 1.37; do
    "$tools/kubernetes-validate" --strict --quiet --kubernetes-version "$version" deploy/kubernetes/*.yaml
done

# The bill of materials is whole, and twice the same.
for copy in 1 2; do
    cargo metadata --locked --format-version 1 --filter-platform x86_64-unknown-linux-gnu |
        "$tools/python" deploy/sbom.py >"$target/sbom-$copy.json"
done
"$tools/python" deploy/sbom.py --check "$target/sbom-1.json"
cmp "$target/sbom-1.json" "$target/sbom-2.json"

# And what the manifests ask of respmux is something respmux knows.
cargo build --locked --quiet --bin respmux
"$tools/python" deploy/check_manifests.py "$target/debug/respmux" deploy/kubernetes/*.yaml
echo "deploy/validate.sh: ${#scripts[@]} scripts, Python, YAML, Dockerfile and manifests are fine"
