#!/usr/bin/env python3
"""Lints the chart and renders it: `render.py OUT` writes OUT/<case>/*.yaml for each ci/*-values.yaml.

Values that the schema must refuse are tried as well: a schema that takes everything is no check.
"""

import sys
from pathlib import Path

import yaml
from helm_python import Chart, HelmError, lint

CHART = Path(__file__).parent / "respmux"
# The chart carries copies, since a chart cannot read above its own directory.
COPIES = {"files/rules.yml": "../prometheus/rules.yml", "files/respmux.json": "../grafana/respmux.json"}
WRONG = [
    {"kind": "StatefulSet"},
    {"upstream": {"url": "redis://:secret@redis:6379"}},
    {"upstream": {"maxConnections": 5}},
    {"replicas": "two"},
    {"metrics": {"podMonitors": {}}},
]


def copies_are_fresh():
    for copy, original in COPIES.items():
        if (CHART / copy).read_bytes() != (CHART.parent / original).read_bytes():
            sys.exit(f"{CHART / copy} is not a copy of {original}")


def render(case, out):
    values = yaml.safe_load(case.read_text()) or {}
    report = lint(str(CHART), values, strict=True, namespace="test")
    loud = [m for m in report["messages"] if m["severity"] > 1]
    if report["errors"] or loud:
        sys.exit(f"{case.name}: helm lint: {report['errors']} {loud}")
    with Chart.load(str(CHART)) as chart:
        chart.validate_schema(values)
        manifests = chart.render(values, name="release", namespace="test")
    place = out / case.name.removesuffix("-values.yaml")
    place.mkdir(parents=True)
    made = 0
    for name, text in manifests.items():
        if name.endswith(".yaml") and text.strip():
            (place / Path(name).name).write_text(text)
            made += len([document for document in yaml.safe_load_all(text) if document])
    return made


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
        print(f"{case.name}: {render(case, out)} objects")
    taken = [values for values in WRONG if not refuses(values)]
    if taken:
        sys.exit(f"values.schema.json takes {taken}")


if __name__ == "__main__":
    main()
