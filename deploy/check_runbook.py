#!/usr/bin/env python3
"""Every alert has an entry in the runbook, with all its parts: `check_runbook.py RULES README`.

An entry is a heading of the alert's name and four paragraphs: *Means*, *Look*, *Causes*, *Do*. The PROXY verbs that it
names are asked of nobody here; tests/it has them.
"""

import re
import sys
from pathlib import Path

import yaml

PARTS = ("*Means*", "*Look*", "*Causes*", "*Do*")


def main():
    rules, readme = sys.argv[1:]
    alerts = {
        rule["alert"]: rule
        for group in yaml.safe_load(Path(rules).read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    entries = dict(re.findall(r"^### (Respmux\w+)\n(.*?)(?=^#|\Z)", Path(readme).read_text(), re.MULTILINE | re.DOTALL))
    wrong = [f"{name} has no entry" for name in alerts if name not in entries]
    wrong += [f"there is no alert {name}" for name in entries if name not in alerts]
    wrong += [f"{name} has no {part}" for name, text in entries.items() for part in PARTS if part not in text]
    wrong += [
        f"{name}: the annotation `runbook` leads elsewhere"
        for name, rule in alerts.items()
        if not rule["annotations"]["runbook"].endswith(f"README.md#{name.lower()}")
    ]
    if wrong:
        sys.exit(f"{readme}: " + "; ".join(wrong))
    print(f"{len(alerts)} alerts, each with its entry")


if __name__ == "__main__":
    main()
