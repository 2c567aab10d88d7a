#!/usr/bin/env python3
"""Asks respmux itself about the manifests: `check_manifests.py RESPMUX FILE|DIRECTORY...`

Every respmux container's arguments, variables and configuration file go through
`respmux check`, with a stand-in for the mounted secret, so that a flag or a key
that does not exist cannot stay in an example.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

SECRET = "/var/run/secrets/respmux"


def containers(documents):
    for document in documents:
        pod = document.get("spec", {}).get("template", {}).get("spec", {})
        for container in [*pod.get("initContainers", []), *pod.get("containers", [])]:
            if container.get("args", [])[:1] == ["run"]:
                yield f"{document['kind']}/{document['metadata']['name']}", pod, container


def mounted(directory, pod, container, documents):
    """Lays out what the container would see; returns `{mount path: directory here}`."""
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    places = {}
    for mount in container.get("volumeMounts", []):
        place = Path(directory) / mount["name"]
        place.mkdir()
        places[mount["mountPath"]] = str(place)
        volume = volumes[mount["name"]]
        if "secret" in volume:
            for key in ("password", "redis-password"):
                (place / key).write_text("stand-in\n")
        for document in documents:
            if document["kind"] == "ConfigMap" and document["metadata"]["name"] == volume.get("configMap", {}).get(
                "name"
            ):
                for name, text in document["data"].items():
                    (place / name).write_text(text)
    for path in Path(directory).glob("*/*.toml"):
        path.write_text(moved(path.read_text(), places))
    return places


def moved(text, places):
    for path, place in places.items():
        text = text.replace(path, place)
    return text


def check(respmux, pod, container, documents):
    with tempfile.TemporaryDirectory() as directory:
        places = mounted(directory, pod, container, documents)
        given = {row["name"]: moved(row["value"], places) for row in container.get("env", [])}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RESPMUX_")}
        argv = [respmux, "check", *(moved(word, places) for word in container["args"][1:])]
        return subprocess.run(argv, check=False, env=environment | given, capture_output=True, text=True)


def main():
    respmux, *files = sys.argv[1:]
    seen = failed = 0
    for file in files:
        texts = [path.read_text() for path in sorted(Path(file).glob("*.yaml")) or [Path(file)]]
        documents = [document for text in texts for document in yaml.safe_load_all(text) if document]
        for name, pod, container in containers(documents):
            seen += 1
            answer = check(respmux, pod, container, documents)
            if answer.returncode:
                failed += 1
                print(f"{file}: {name}: `respmux check` refuses it:\n{answer.stderr}", file=sys.stderr)
    if not seen or failed:
        sys.exit(f"{seen} respmux containers in {len(files)} files, {failed} refused")


if __name__ == "__main__":
    main()
