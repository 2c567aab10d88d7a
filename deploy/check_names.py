#!/usr/bin/env python3
"""Every metric that a rule or the dashboard names is one that respmux exports: `check_names.py METRICS RULES DASHBOARD`.

METRICS is a scrape of /metrics or the catalogue's source: any text in which the names stand.
"""

import json
import re
import sys
from pathlib import Path

import promql_parser
import yaml

# Of Prometheus itself, and of redis_exporter.
FOREIGN = {"up", "redis_connected_clients"}


def names_in(expression):
    expression = expression.replace("$__rate_interval", "5m")
    tree = promql_parser.parse(expression)
    found = set()

    def walk(node):
        if isinstance(node, promql_parser.VectorSelector):
            found.add(node.name)
        for part in ("expr", "lhs", "rhs", "param", "vs", "vector_selector", "selector"):
            child = getattr(node, part, None)
            if child is not None and not isinstance(child, str):
                walk(child)
        for child in getattr(node, "args", None) or []:
            walk(child)

    walk(tree)
    return found


def rules(path):
    for group in yaml.safe_load(Path(path).read_text())["groups"]:
        for rule in group["rules"]:
            yield rule.get("record") or rule["alert"], rule["expr"], "record" in rule


def panels(path):
    for panel in json.loads(Path(path).read_text())["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"], False


def main():
    metrics, rule_file, dashboard = sys.argv[1:]
    known = set(re.findall(r"\b(?:respmux|process)_[a-z0-9_]+", Path(metrics).read_text())) | FOREIGN
    wanted = [*rules(rule_file), *panels(dashboard)]
    known |= {title for title, _, recorded in wanted if recorded}
    unknown = seen = 0
    for title, expression, _ in wanted:
        for name in names_in(expression):
            seen += 1
            if name not in known and re.sub(r"_(bucket|sum|count)$", "", name) not in known:
                unknown += 1
                print(f"{title}: there is no metric {name}", file=sys.stderr)
    if unknown or seen < len(wanted):
        sys.exit(f"{unknown} names unknown, {seen} names in {len(wanted)} expressions")
    print(f"{seen} names in {len(wanted)} expressions, all of them exported")


if __name__ == "__main__":
    main()
