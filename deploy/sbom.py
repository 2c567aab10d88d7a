#!/usr/bin/env python3
"""Writes what is in the binary, as a CycloneDX bill of materials, from `cargo metadata` on standard input.

cargo metadata --locked --format-version 1 --filter-platform x86_64-unknown-linux-gnu | deploy/sbom.py > sbom.cdx.json
deploy/sbom.py --check sbom.cdx.json     is it whole?
deploy/sbom.py --count sbom.cdx.json     how many components

The same sources give the same bytes: it holds no time and no random number. What only builds or tests us is left out.
"""

import json
import sys
import tomllib
import uuid
from pathlib import Path
from urllib.parse import quote


def purl(package: dict) -> str:
    return f"pkg:cargo/{quote(package['name'])}@{quote(package['version'], safe='')}"


def linked(metadata: dict) -> dict[str, list[str]]:
    """What is linked into the binary, by package id, each with what it uses in its turn."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    macros = {
        package["id"]
        for package in metadata["packages"]
        if any("proc-macro" in target["kind"] for target in package["targets"])
    }
    found, todo = {}, [metadata["resolve"]["root"]]
    while todo:
        here = todo.pop()
        if here in found:
            continue
        normal = (
            dep["pkg"]
            for dep in nodes[here]["deps"]
            if any(kind["kind"] is None for kind in dep["dep_kinds"]) and dep["pkg"] not in macros
        )
        found[here] = sorted(set(normal))
        todo.extend(found[here])
    return found


def component(package: dict, checksums: dict[tuple[str, str], str]) -> dict:
    entry = {
        "type": "library",
        "bom-ref": purl(package),
        "name": package["name"],
        "version": package["version"],
        "purl": purl(package),
    }
    if package.get("license"):
        # Old manifests separate alternatives with a slash.
        entry["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if package.get("repository"):
        entry["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    checksum = checksums.get((package["name"], package["version"]))
    if checksum:
        entry["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return entry


def bill(metadata: dict, lock: dict) -> dict:
    packages = {package["id"]: package for package in metadata["packages"]}
    checksums = {(entry["name"], entry["version"]): entry.get("checksum") for entry in lock["package"]}
    uses = linked(metadata)
    root = metadata["resolve"]["root"]
    components = sorted(
        (component(packages[id], checksums) for id in uses if id != root), key=lambda entry: entry["bom-ref"]
    )
    dependencies = sorted(
        (
            {"ref": purl(packages[id]), "dependsOn": sorted(purl(packages[used]) for used in used_ids)}
            for id, used_ids in uses.items()
        ),
        key=lambda entry: entry["ref"],
    )
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(components, sort_keys=True))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {"component": component(packages[root], checksums) | {"type": "application"}},
        "components": components,
        "dependencies": dependencies,
    }


def check(bom: dict) -> list[str]:
    """What is missing or contradictory."""
    refs = [entry["bom-ref"] for entry in bom["components"]]
    known = {*refs, bom["metadata"]["component"]["bom-ref"]}
    wrong = [f"{ref} is there twice" for ref in set(refs) if refs.count(ref) > 1]
    wrong += [f"{entry['bom-ref']} has no hash" for entry in bom["components"] if not entry.get("hashes")]
    wrong += [f"{entry['bom-ref']} has no licence" for entry in bom["components"] if not entry.get("licenses")]
    for entry in bom["dependencies"]:
        wrong += [f"{used} is used and not listed" for used in [entry["ref"], *entry["dependsOn"]] if used not in known]
    names = {entry["name"] for entry in bom["components"]}
    wrong += [f"{name} is only for tests" for name in names & {"proptest", "criterion", "tempfile", "redis"}]
    wrong += [f"{name} is missing" for name in {"tokio", "bytes", "hyper"} - names]
    return wrong


def main() -> int:
    match sys.argv[1:]:
        case []:
            lock = tomllib.loads((Path(__file__).parent.parent / "Cargo.lock").read_text())
            json.dump(bill(json.load(sys.stdin), lock), sys.stdout, indent=1)
            print()
        case ["--count", path]:
            print(len(json.loads(Path(path).read_text())["components"]))
        case ["--check", path]:
            wrong = check(json.loads(Path(path).read_text()))
            print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
            return 1 if wrong else 0
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
