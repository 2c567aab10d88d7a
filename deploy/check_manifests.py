#!/usr/bin/env python3
"""Asks respmux itself about the manifests: `check_manifests.py RESPMUX FILE|DIRECTORY...`

Every respmux container's arguments, variables and configuration file go through
`respmux check`, with stand-ins for the mounted secrets, so that a flag or a key
that does not exist cannot stay in an example. A directory is one set of manifests.
Files of respmux' configuration (*.toml) and Markdown may be given as well: of the
latter each block marked `toml` is a configuration.
"""

import os
import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import yaml


@cache
def stand_ins():
    """What may stand in a secret: `{key: text}`. The certificate is its own authority."""
    with tempfile.TemporaryDirectory() as directory:
        key, certificate = Path(directory, "key"), Path(directory, "certificate")
        made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        made += ["-subj", "/CN=stand-in", "-addext", "subjectAltName=DNS:redis", "-days", "2"]
        subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        texts = {"tls.key": key.read_text(), "tls.crt": certificate.read_text(), "ca.crt": certificate.read_text()}
    return texts | dict.fromkeys(["password", "redis-password", "token"], "stand-in-that-is-long-enough\n")


def containers(documents):
    for document in documents:
        spec = document.get("spec") or {}
        pod = spec.get("template", {}).get("spec", spec)
        for container in [*pod.get("initContainers", []), *pod.get("containers", [])]:
            if container.get("args", [])[:1] == ["run"]:
                yield f"{document['kind']}/{document['metadata']['name']}", pod, container


def content(volume, documents):
    """The files of a volume, as the container would see them."""
    if "secret" in volume:
        return stand_ins()
    wanted = volume.get("configMap", {}).get("name")
    maps = [d for d in documents if d["kind"] == "ConfigMap" and d["metadata"]["name"] == wanted]
    return maps[0]["data"] if maps else {}


def mounted(directory, pod, container, documents):
    """Lays out what the container would see; returns `{mount path: directory here}`."""
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    places = {}
    for mount in container.get("volumeMounts", []):
        place = Path(directory) / mount["name"]
        place.mkdir()
        places[mount["mountPath"]] = str(place)
        for name, text in content(volumes[mount["name"]], documents).items():
            (place / name).write_text(text)
    for path in Path(directory).glob("*/*.toml"):
        path.write_text(moved(path.read_text(), places))
    return places


def moved(text, places):
    # The longest first: one path may begin with another.
    for path in sorted(places, key=len, reverse=True):
        text = text.replace(path + "/", places[path] + "/")
    return text


def asked(respmux, arguments, environment=()):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RESPMUX_")}
    run = subprocess.run(
        [respmux, "check", "--elsewhere", *arguments],
        check=False,
        env=inherited | dict(environment),
        capture_output=True,
        text=True,
    )
    return run.stderr if run.returncode else None


def check(respmux, pod, container, documents):
    with tempfile.TemporaryDirectory() as directory:
        places = mounted(directory, pod, container, documents)
        given = {row["name"]: moved(row["value"], places) for row in container.get("env", []) if "value" in row}
        return asked(respmux, [moved(word, places) for word in container["args"][1:]], given)


def manifests(respmux, file):
    texts = [path.read_text() for path in sorted(Path(file).glob("*.yaml")) or [Path(file)]]
    documents = [document for text in texts for document in yaml.safe_load_all(text) if document]
    for name, pod, container in containers(documents):
        yield name, check(respmux, pod, container, documents)


def configurations(respmux, file):
    """A configuration file, or those in a text."""
    text = Path(file).read_text()
    found = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL) if file.endswith(".md") else [text]
    for number, configuration in enumerate(found, 1):
        with tempfile.TemporaryDirectory() as directory:
            for name, secret in stand_ins().items():
                Path(directory, name).write_text(secret)
            path = Path(directory, "respmux.toml")
            # Files that a configuration names are stand-ins of the same last name.
            path.write_text(re.sub(r'(_file = ")[^"]*/', rf"\g<1>{directory}/", configuration))
            yield f"configuration {number}", asked(respmux, ["--config", path])


def main():
    respmux, *files = sys.argv[1:]
    seen = failed = 0
    for file in files:
        answers = (configurations if file.endswith((".md", ".toml")) else manifests)(respmux, file)
        found = 0
        for name, refusal in answers:
            found += 1
            if refusal:
                failed += 1
                print(f"{file}: {name}: `respmux check` refuses it:\n{refusal}", file=sys.stderr)
        seen += found
        if not found and file.endswith((".md", ".toml")):
            sys.exit(f"{file} has no configuration of respmux")
    if not seen or failed:
        sys.exit(f"{seen} configurations of respmux in {len(files)} files, {failed} refused")
    print(f"{seen} configurations of respmux, none refused")


if __name__ == "__main__":
    main()
