#!/usr/bin/env python3
"""Mistakes put into deploy/ on purpose: each check of deploy/check.sh must see its own. `selftest.py [REGEX]`

The tree is copied, one file of the copy is changed, the step is run, and it must fail with the words that tell the
mistake. First each step must pass on the copy as it is. `make deploy-check` must have run once, for the tools and the
program. A few minutes; prints one line of JSON. Exit code 1: a mistake went unseen.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()

CHART = "deploy/helm/respmux"
POLICY = "deploy/kubernetes/sidecar-injection.yaml"
# What it is; the step; the file; what is replaced (None: the end of the file) and by what; what the step must say.
MISTAKES = [
    ("shell", "files", "deploy/static.sh", None, "\necho $target\n", "SC2086"),
    ("python", "files", "deploy/check_names.py", None, "\nimport os\n", "F401"),
    ("yaml", "files", "deploy/kustomize/base/service.yaml", "spec:\n", "spec :\n", "too many spaces before colon"),
    ("dockerfile", "files", "deploy/Dockerfile", "FROM scratch\n", "FROM debian:latest\n", "DL3007"),
    ("a template", "charts", f"{CHART}/templates/pdb.yaml", "{{- end }}", "{{- ende }}", "ende"),
    ("a stale copy", "charts", "deploy/prometheus/rules.yml", None, "# more\n", "is not a copy"),
    (
        "the values' schema",
        "charts",
        f"{CHART}/values.schema.json",
        '"minimum": 6',
        '"minimum": 0',
        "values.schema.json takes",
    ),
    (
        "a field that is none",
        "kubernetes",
        f"{CHART}/templates/workload.yaml",
        "minReadySeconds:",
        "minReadySecond:",
        "minReadySecond",
    ),
    (
        "a field of 1.30",
        "kubernetes",
        "deploy/kustomize/base/service.yaml",
        "spec:\n",
        "spec:\n  trafficDistribution: PreferClose\n",
        "trafficDistribution",
    ),
    ("a field of the policy", "kubernetes", POLICY, "reinvocationPolicy", "reinvocation", "reinvocation"),
    (
        "a monitor",
        "crds",
        "deploy/prometheus/podmonitor.yaml",
        "replacement: respmux",
        "replacemet: respmux",
        "is no field",
    ),
    (
        "a right too many",
        "checkov",
        f"{CHART}/values.yaml",
        "allowPrivilegeEscalation: false",
        "allowPrivilegeEscalation: true",
        "CKV_K8S_20",
    ),
    ("a rendered file", "kustomize", "deploy/kubernetes/sidecar.yaml", "--workers=1", "--workers=2", "sidecar.yaml"),
    (
        "the library chart",
        "sidecar",
        "deploy/helm/respmux-sidecar/templates/_sidecar.tpl",
        "periodSeconds: 10",
        "periodSeconds: 11",
        "the Helm library chart",
    ),
    (
        "the policy's types",
        "sidecar",
        POLICY,
        "Object.spec.initContainers.securityContext.capabilities{",
        "Object.spec.initContainers.capabilities{",
        "stands where",
    ),
    ("the policy's container", "sidecar", POLICY, "--drain-timeout=5s", "--drain-timeout=6s", "is not the sidecar"),
    ("the policy's condition", "sidecar", POLICY, 'c.name == "respmux"', 'c.name == "redismux"', "has respmux already"),
    (
        "the policy's syntax",
        "sidecar",
        POLICY,
        "(has(object.spec.initContainers) ?",
        "(has(object.spec.initContainers)",
        "Error",
    ),
    (
        "a cap too small",
        "configurations",
        "deploy/kustomize/base/respmux.toml",
        "max_connections = 32",
        "max_connections = 3",
        "respmux check",
    ),
    (
        "a key in a document",
        "configurations",
        "deploy/migration.md",
        "request_timeout = ",
        "request_time = ",
        "request_time",
    ),
    (
        "a flag",
        "configurations",
        "deploy/kustomize/components/sidecar/sidecar.yaml",
        "--drain-timeout",
        "--drain-time",
        "`respmux check` refuses it",
    ),
    ("a rule", "prometheus", "deploy/prometheus/rules.yml", "> 0.01", ">> 0.01", "parse error"),
    ("an alert that fires late", "prometheus", "deploy/prometheus/rules.yml", "for: 1m", "for: 50m", "FAILED"),
    (
        "a metric in a rule",
        "names",
        "deploy/prometheus/rules.yml",
        "respmux_shed_state",
        "respmux_shed_level",
        "respmux_shed_level",
    ),
    (
        "a label value in an alert",
        "names",
        "deploy/prometheus/rules.yml",
        'state!="idle"',
        'state!="resting"',
        "state of respmux_upstream_connections is never 'resting'",
    ),
    (
        "a label value in a rule's test",
        "names",
        "deploy/prometheus/rules_test.yml",
        'reason="wrong_type"',
        'reason="frame"',
        "reason of respmux_integrity_violations_total is never 'frame'",
    ),
    (
        "the dashboard",
        "names",
        "deploy/grafana/respmux.json",
        "respmux_pool_waiters",
        "respmux_pool_waiter",
        "is not what",
    ),
    (
        "a runbook entry",
        "runbook",
        "deploy/prometheus/README.md",
        "### RespmuxDown",
        "### RespmuxGone",
        "RespmuxDown has no entry",
    ),
    ("half a runbook entry", "runbook", "deploy/prometheus/README.md", "*Causes*", "Causes", "has no"),
    (
        "a key that was renamed",
        "documents",
        "deploy/operations.md",
        "`drain.timeout`",
        "`drain.patience`",
        "drain.patience",
    ),
    ("a verb that is none", "documents", "deploy/operations.md", "PROXY DRAIN", "PROXY FLUSH", "PROXY FLUSH"),
    ("a link", "documents", "deploy/README.md", "(sizing.md)", "(size.md)", "size.md"),
    ("the example", "schema", "deploy/kustomize/base/respmux.toml", "workers = 2", 'workers = "many"', "workers"),
    ("the reference", "schema", "deploy/configuration.md", "# Configuration reference", "# Reference", "differ"),
    ("the unit", "systemd", "deploy/systemd/respmux.service", "Restart=on-failure", "Restrat=on-failure", "Restrat"),
    (
        "the unit's rights",
        "systemd",
        "deploy/systemd/respmux.service",
        "ProtectSystem=strict\n",
        "User=root\nPrivateUsers=no\nCapabilityBoundingSet=~\nProtectKernelModules=no\nPrivateDevices=no\n",
        "exposure level",
    ),
]


def run(tree, step):
    environment = os.environ | {"CARGO_TARGET_DIR": str(TARGET)}
    done = subprocess.run(
        ["deploy/check.sh", step], check=False, cwd=tree, env=environment, capture_output=True, text=True, timeout=300
    )
    return done.returncode, done.stdout + done.stderr


def copied(directory):
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, directory / name)
    subprocess.run(["git", "init", "-q"], check=True, cwd=directory)


def seeded(tree, mistake):
    """Whether the step sees it; the file is as it was afterwards."""
    _, step, name, old, new, expected = mistake
    path = tree / name
    before = path.read_text()
    if old is not None and old not in before:
        return f"{name} has no {old!r}: the mistake must be put elsewhere"
    path.write_text(before + new if old is None else before.replace(old, new, 1))
    code, said = run(tree, step)
    path.write_text(before)
    if code == 0:
        return "went unseen"
    return None if expected in said else f"failed, but without {expected!r}:\n{said[-600:]}"


def main():
    wanted = re.compile(sys.argv[1] if len(sys.argv) > 1 else "")
    mistakes = [mistake for mistake in MISTAKES if wanted.search(mistake[0])]
    started, unseen = time.monotonic(), {}
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory)
        copied(tree)
        # `files` ends with building the program, which a copy elsewhere would do all over.
        for step in dict.fromkeys(step for _, step, *_ in mistakes if step != "files"):
            code, said = run(tree, step)
            if code:
                sys.exit(f"{step} fails before any mistake is put in:\n{said[-2000:]}")
        for mistake in mistakes:
            problem = seeded(tree, mistake)
            print(f"{mistake[1]}: {mistake[0]}: {problem or 'seen'}", file=sys.stderr, flush=True)
            if problem:
                unseen[mistake[0]] = problem
    seconds = round(time.monotonic() - started)
    print(
        json.dumps(
            {"mistakes": len(mistakes), "seen": len(mistakes) - len(unseen), "unseen": unseen, "seconds": seconds}
        )
    )
    sys.exit(1 if unseen else 0)


if __name__ == "__main__":
    main()
