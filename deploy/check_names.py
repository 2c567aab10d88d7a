#!/usr/bin/env python3
"""Every metric and label value that a rule, its test or the dashboard names is one that respmux exports.

`check_names.py CATALOGUE RULES RULE_TESTS DASHBOARD`. CATALOGUE is src/telemetry/catalogue.rs: its rows have the names, its
axes the values, which are declared in reasons/ beside it.
"""

import json
import re
import sys
from pathlib import Path

import promql_parser
import yaml

# Of Prometheus itself, and of redis_exporter.
FOREIGN = {"up", "redis_connected_clients"}


OF_HISTOGRAMS = re.compile(r"_(bucket|sum|count)$")


def axes(catalogue):
    """The values that each label of each metric can have, where they are known."""
    source = Path(catalogue).read_text()
    sets = {}
    for path in (Path(catalogue).parent / "reasons").glob("*.rs"):
        for block in path.read_text().split("\nlabels! {\n")[1:]:
            body = re.sub(r"\s*///[^\n]*", "", block.split("\n}\n")[0])
            sets[body.split()[0]] = set(re.findall(r'\w+ = "([^"]+)"', body))
    for name, values in re.findall(r"const (\w+): &\[&str\] = &\[(.*?)\];", source, re.DOTALL):
        sets[name] = set(re.findall(r'"([^"]+)"', values))

    def parsed(text):
        pairs = re.findall(r'\("(\w+)", (\w+)(?:::LABELS)?\)', text)
        return {label: sets[name] for label, name in pairs if name in sets}

    shared = dict(re.findall(r"const (\w+): &\[Axis\] = &\[(.*?)\];", source, re.DOTALL))
    rows = re.findall(r'row\("(\w+)", \w+,\s*(&\[.*?\]|\w+),', source, re.DOTALL)
    return {name: parsed(shared.get(text, text)) for name, text in rows}


def asked(matcher):
    """The values that a matcher of a selector names one by one."""
    plain = matcher.value.split("|") if str(matcher.op) in ("MatchOp.Re", "MatchOp.NotRe") else [matcher.value]
    return [value for value in plain if re.fullmatch(r"[A-Za-z_]+", value)]


def selectors(expression):
    """The names in it, and of each the labels with their values."""
    expression = expression.replace("$__rate_interval", "5m")
    tree = promql_parser.parse(expression)
    found = []

    def walk(node):
        if isinstance(node, promql_parser.VectorSelector):
            matchers = node.matchers.matchers
            found.append((node.name, [(matcher.name, value) for matcher in matchers for value in asked(matcher)]))
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


def tested(path):
    """The series that the rules' tests make up."""
    for test in yaml.safe_load(Path(path).read_text())["tests"]:
        for series in test["input_series"]:
            yield f"{test['name']}: {series['series']}", series["series"], False


def panels(path):
    for panel in json.loads(Path(path).read_text())["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"], False


def main():
    catalogue, rule_file, rule_tests, dashboard = sys.argv[1:]
    values = axes(catalogue)
    known = set(re.findall(r"\b(?:respmux|process)_[a-z0-9_]+", Path(catalogue).read_text())) | FOREIGN
    wanted = [*rules(rule_file), *tested(rule_tests), *panels(dashboard)]
    known |= {title for title, _, recorded in wanted if recorded}
    wrong = seen = asked_for = 0
    for title, expression, _ in wanted:
        for name, labels in selectors(expression):
            seen += 1
            base = OF_HISTOGRAMS.sub("", name)
            if name not in known and base not in known:
                wrong += 1
                print(f"{title}: there is no metric {name}", file=sys.stderr)
            for label, value in labels:
                possible = (values.get(name) or values.get(base) or {}).get(label)
                asked_for += possible is not None
                if possible is not None and value not in possible:
                    wrong += 1
                    print(f"{title}: {label} of {name} is never {value!r}", file=sys.stderr)
    if wrong or seen < len(wanted) or asked_for < 30:
        sys.exit(f"{wrong} mistakes, {seen} names and {asked_for} label values in {len(wanted)} expressions")
    print(f"{seen} names and {asked_for} label values in {len(wanted)} expressions, all of them exported")


if __name__ == "__main__":
    main()
