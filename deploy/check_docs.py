#!/usr/bin/env python3
"""What the documents name exists: `check_docs.py RESPMUX FILE.md...`

Metrics, configuration keys, subcommands of PROXY, flags, make targets, what `make prove`, `make bench` and `make package`
run, and files that links lead to. So a document cannot go on naming what was renamed.
"""

import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
# What `make prove`, `make bench` and `make package` run.
ENTRIES = {"prove": "tests/prove.sh", "bench": "benches/bench.sh", "package": "deploy/package.sh"}
# Of Prometheus' histograms, and made by rules.
DERIVED = re.compile(r"_(bucket|sum|count)$")


def targets():
    """What follows `make`: its targets, and the entries of those that have any."""
    found = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command, script in ENTRIES.items():
        names = subprocess.run([ROOT / script, "names"], check=True, capture_output=True, text=True).stdout
        found |= {f"{command} WHAT={name}" for name in names.split()}
    return found


def known(respmux):
    def said(*words):
        return subprocess.run([respmux, *words], check=True, capture_output=True, text=True).stdout

    reference = said("config", "reference")
    keys, table = set(), ""
    for line in reference.splitlines():
        if heading := re.match(r"## `\[(\w+)\]`", line):
            table = heading.group(1) + "."
        elif row := re.match(r"\| `(\w+)` \|", line):
            keys.add(table + row.group(1))
    values = yaml.safe_load((ROOT / "deploy/helm/respmux/values.yaml").read_text())
    sources = "".join(path.read_text() for path in (ROOT / "src" / "client").rglob("*.rs"))
    return {
        "keys": keys,
        "values": {f"{table}.{key}" for table, row in values.items() if isinstance(row, dict) for key in row},
        "tables": {key.split(".")[0] for key in keys if "." in key},
        # The last one is for the tests, which name another build by it.
        "variables": set(re.findall(r"\b(RESPMUX_\w+)", reference + said("run", "--help"))) | {"RESPMUX_UNDER_TEST"},
        "metrics": set(re.findall(r'"(respmux_\w+)"', (ROOT / "src/telemetry/catalogue.rs").read_text())),
        "verbs": set(re.findall(r'\("([A-Z]+)", \d', sources)),
        "targets": targets(),
    }


def wrong(text, path, names):
    """What `text` names and nobody knows."""
    for name in set(re.findall(r"\brespmux_[a-z][a-z0-9_]*", text)):
        if DERIVED.sub("", name) not in names["metrics"] and name not in names["metrics"]:
            yield f"metric {name}"
    keys = names["keys"] | (names["values"] if "helm" in path.parts else set())
    for name in set(re.findall(r"`([a-z]+\.[a-z_]+)(?: = [^`]*)?`", text, re.IGNORECASE)):
        if name.split(".")[0] in names["tables"] and name not in keys:
            yield f"key {name}"
    for name in set(re.findall(r"\bRESPMUX_[A-Z0-9_]+[A-Z0-9]", text)):
        if name not in names["variables"]:
            yield f"variable {name}"
    for name in set(re.findall(r"\bPROXY ([A-Z]+)\b", text)):
        if name not in names["verbs"]:
            yield f"subcommand PROXY {name}"
    for name in set(re.findall(r"`make ([a-z-]+(?: WHAT=[a-z-]+)?)", text)):
        if name not in names["targets"]:
            yield f"target {name}"
    for link in set(re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)):
        if not (path.parent / link).exists():
            yield f"link {link}"


def main():
    respmux, *files = sys.argv[1:]
    names = known(respmux)
    if not all(names.values()):
        sys.exit(f"nothing found of {[kind for kind, found in names.items() if not found]}")
    found = [
        f"{file}: there is no {what}" for file in files for what in wrong(Path(file).read_text(), Path(file), names)
    ]
    if found:
        sys.exit("\n".join(found))
    print(f"{len(files)} documents name nothing that is not there")


if __name__ == "__main__":
    main()
