#!/usr/bin/env python3
"""The kinds of the Prometheus operator against its models: `check_crds.py FILE...`

kubernetes-validate knows Kubernetes' own kinds only. The models refuse wrong types and missing fields, and let unknown
fields pass; those are what does not come back.
"""

import sys
from pathlib import Path

import cloudcoil.models.prometheus_operator.v1 as models
import pydantic
import yaml


def lost(given, kept, path=""):
    """Where `given` says something that the model did not keep."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            if key not in kept:
                yield f"{path}.{key}"
            else:
                yield from lost(value, kept[key], f"{path}.{key}")
    elif isinstance(given, list) and isinstance(kept, list):
        for index, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from lost(one, other, f"{path}[{index}]")


def wrong(document):
    model = getattr(models, document["kind"])
    try:
        read = model.model_validate(document)
    except pydantic.ValidationError as error:
        return [f"{'.'.join(map(str, row['loc']))}: {row['msg']}" for row in error.errors()]
    kept = read.model_dump(mode="json", by_alias=True, exclude_none=True)
    return [f"{path} is no field" for path in lost(document, kept)]


def main():
    seen, problems = 0, []
    for file in sys.argv[1:]:
        for document in yaml.safe_load_all(Path(file).read_text()):
            if document and document["apiVersion"] == "monitoring.coreos.com/v1":
                seen += 1
                problems += [f"{file}: {document['kind']}: {problem}" for problem in wrong(document)]
    if problems or not seen:
        sys.exit("\n".join(problems) or "no object of the Prometheus operator")
    print(f"{seen} objects of the Prometheus operator")


if __name__ == "__main__":
    main()
