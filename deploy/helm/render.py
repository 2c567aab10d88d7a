#!/usr/bin/env python3
"""Lints the charts and renders them: `render.py OUT` writes OUT/<case>/*.yaml for each ci/*-values.yaml.

The example application is rendered too, with the library chart beside it, once with and once without a password.
Values that the schema must refuse are tried as well: a schema that takes everything is no check.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import yaml
from helm_python import Chart, HelmError, lint

HERE = Path(__file__).parent
CHART = HERE / "respmux"
# The chart carries copies, since a chart cannot read above its own directory.
COPIES = {"files/rules.yml": "../prometheus/rules.yml", "files/respmux.json": "../grafana/respmux.json"}
WRONG = [
    {"kind": "StatefulSet"},
    {"upstream": {"url": "redis://:secret@redis:6379"}},
    {"upstream": {"maxConnections": 5}},
    {"replicas": "two"},
    {"metrics": {"podMonitors": {}}},
    {"tls": {"clientAuth": False}},
    {"drain": {"endpoint": "redis-proxy"}},
]
# The sidecar with and without the Secret: deploy/check_sidecar.py compares both with Kustomize's.
SHOPS = {"sidecar": {}, "sidecar-without-password": {"sidecar": {"passwordSecret": None}}}


def copies_are_fresh():
    for copy, original in COPIES.items():
        if (CHART / copy).read_bytes() != (CHART.parent / original).read_bytes():
            sys.exit(f"{CHART / copy} is not a copy of {original}")


def write(path, name, values, out):
    """One chart with one set of values: linted, rendered, its NOTES beside the manifests."""
    report = lint(str(path), values, strict=True, namespace="test")
    loud = [m for m in report["messages"] if m["severity"] > 1]
    if report["errors"] or loud:
        sys.exit(f"{name}: helm lint: {report['errors']} {loud}")
    with Chart.load(str(path)) as chart:
        chart.validate_schema(values)
        manifests = chart.render(values, name="release", namespace="test")
    place = out / name
    place.mkdir(parents=True)
    made = 0
    for source, text in manifests.items():
        if source.endswith(".yaml") and text.strip():
            (place / Path(source).name).write_text(text)
            made += len([document for document in yaml.safe_load_all(text) if document])
        elif source.endswith("NOTES.txt"):
            (place / "NOTES.txt").write_text(text)
    print(f"{name}: {made} objects")


def shops(out):
    """What `helm dependency build` would do, without a registry: the library goes under charts/."""
    with tempfile.TemporaryDirectory() as directory:
        shop = Path(directory) / "shop"
        shutil.copytree(HERE / "examples" / "shop", shop)
        shutil.copytree(HERE / "respmux-sidecar", shop / "charts" / "respmux-sidecar")
        for name, values in SHOPS.items():
            write(shop, name, values, out)


def refuses(values):
    with Chart.load(str(CHART)) as chart:
        try:
            chart.validate_schema(chart.merge_values(values))
        except HelmError:
            return True
    return False


def main():
    out = Path(sys.argv[1])
    copies_are_fresh()
    for case in sorted((CHART / "ci").glob("*-values.yaml")):
        write(CHART, case.name.removesuffix("-values.yaml"), yaml.safe_load(case.read_text()) or {}, out)
    shops(out)
    taken = [values for values in WRONG if not refuses(values)]
    if taken:
        sys.exit(f"values.schema.json takes {taken}")


if __name__ == "__main__":
    main()
