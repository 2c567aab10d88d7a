#!/usr/bin/env python3
"""The sidecar is the same by every road: `check_sidecar.py KUBECTL CHARTS`, CHARTS being what helm/render.py wrote.

Kustomize's component is the source. The Helm library chart's container must be equal to it, and so must a pod that the
MutatingAdmissionPolicy has changed: its CEL is evaluated here against sample pods, and the JSON patch applied.

What that cannot see, because no API server runs here: whether the API server compiles the expression, and what other
admission plugins do before and after it. Two of its rules are checked in its place: an Object's type name must be that
of its place in the pod, and a list may not hold values of several types.
"""

import copy
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import celpy
import yaml

HERE = Path(__file__).parent
POLICY = HERE / "kubernetes" / "sidecar-injection.yaml"
IMAGE, UPSTREAM = "registry.internal/respmux:9", "rediss://redis.data:6390/3"
PARAMS = {"image": IMAGE, "upstream": UPSTREAM}
LABEL = {"respmux-sidecar": "true"}

APP = {"name": "app", "image": "shop:1"}
MIGRATE = {"name": "migrate", "image": "shop:1", "env": [{"name": "A", "value": "b"}]}
DATA = {"name": "data", "emptyDir": {}}
PODS = {
    "an application alone": {"containers": [APP]},
    "with an init container": {"containers": [APP], "initContainers": [MIGRATE]},
    "with a volume": {"containers": [APP], "volumes": [DATA]},
    "with both": {"containers": [APP], "initContainers": [MIGRATE], "volumes": [DATA]},
}


# --- Kustomize


def kustomized(kubectl, spec, password, replaced):
    """The pod as the components make it, with the arguments and the image that are replaced."""
    with tempfile.TemporaryDirectory(dir=HERE / "kustomize", prefix=".check-") as directory:
        parts = ["sidecar"] + (["sidecar-password"] if password else [])
        deployment = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "shop"},
            "spec": {"selector": {}, "template": {"metadata": {}, "spec": spec}},
        }
        Path(directory, "app.yaml").write_text(yaml.safe_dump(deployment))
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": ["app.yaml"],
            "components": [os.path.relpath(HERE / "kustomize" / "components" / part, directory) for part in parts],
        }
        Path(directory, "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        run = subprocess.run([kubectl, "kustomize", directory], check=True, capture_output=True, text=True)
    for old, new in replaced.items():
        run.stdout = run.stdout.replace(old, new)
    return yaml.safe_load(run.stdout)["spec"]["template"]["spec"]


# --- the policy

CONSTRUCTOR = re.compile(r"(?:JSONPatch|Object(?:\.[A-Za-z]+)*)\{")
# Strings, constructors, names, operators of two signs, and everything else by itself.
TOKEN = re.compile(rf'"(?:[^"\\]|\\.)*"|{CONSTRUCTOR.pattern}|[A-Za-z_]+(?:\.[A-Za-z_]+)*|[0-9]+|\|\||&&|[=!<>]=|\S')


def plain(source):
    """The same expression with maps in place of Objects, for an evaluator that knows no Kubernetes types.

    On the way the names of the types are checked against their place.
    """
    out, frames, path = [], [], None
    tokens = TOKEN.findall(source)
    for place, token in enumerate(tokens):
        if CONSTRUCTOR.fullmatch(token):
            expect_type(token[:-1], frames, path)
            frames.append([token[:-1], None])
            out.append("{")
            continue
        if token in "{[(":
            frames.append([token, None])
        elif token in "}])":
            frames.pop()
        elif tokens[place + 1 : place + 2] == [":"] and frames and frames[-1][0] not in "{[(":
            frames[-1][1] = token
            out.append(json.dumps(token))
            continue
        elif frames and frames[-1] == ["JSONPatch", "path"] and token.startswith('"'):
            path = token[1:-1]
        out.append(token)
    return " ".join(out)


def expect_type(name, frames, path):
    """A nested Object is named after the Object and the field that hold it, the outermost after the patch's path."""
    if name == "JSONPatch":
        return
    holders = [frame for frame in frames if frame[0].startswith("Object")]
    if holders:
        expected = f"{holders[-1][0]}.{holders[-1][1]}"
    else:
        expected = ".".join(["Object", *(part for part in path.split("/")[1:] if not part.isdigit() and part != "-")])
    if name != expected:
        sys.exit(f"{POLICY}: {name} stands where {expected} must")


def mixed(value):
    """A list whose items are not all of one type: the API server's CEL refuses to compile that."""
    if isinstance(value, list):
        return len({type(item) for item in value}) > 1 or any(mixed(item) for item in value)
    return isinstance(value, dict) and any(mixed(item) for item in value.values())


class Policy:
    """What the API server would do with it."""

    def __init__(self):
        documents = {d["kind"]: d["spec"] for d in yaml.safe_load_all(POLICY.read_text())}
        spec = documents["MutatingAdmissionPolicy"]
        self.labels = spec["matchConstraints"]["objectSelector"]["matchLabels"]
        self.conditions = [self.compiled(row["expression"]) for row in spec["matchConditions"]]
        (mutation,) = spec["mutations"]
        self.patch = self.compiled(mutation["jsonPatch"]["expression"])
        if documents["MutatingAdmissionPolicyBinding"]["paramRef"]["parameterNotFoundAction"] != "Deny":
            sys.exit(f"{POLICY}: a namespace without the ConfigMap must refuse the pod")

    @staticmethod
    def compiled(source):
        environment = celpy.Environment()
        return environment.program(environment.compile(plain(source)))

    @staticmethod
    def evaluated(program, pod, params):
        given = {"object": celpy.json_to_cel(pod), "params": celpy.json_to_cel({"data": params})}
        return python(program.evaluate(given))

    def admit(self, pod, params):
        labels = pod["metadata"].get("labels", {})
        if any(labels.get(name) != value for name, value in self.labels.items()):
            return pod
        if not all(self.evaluated(condition, pod, params) for condition in self.conditions):
            return pod
        operations = self.evaluated(self.patch, pod, params)
        if any(mixed(operation["value"]) for operation in operations):
            sys.exit(f"{POLICY}: a list of mixed types")
        changed = copy.deepcopy(pod)
        for operation in operations:
            add(changed, operation)
        return changed


def python(value):
    """A value of the evaluator as Python's own; its booleans are numbers."""
    if isinstance(value, celpy.CELEvalError):
        raise value
    if isinstance(value, celpy.celtypes.BoolType):
        return bool(value)
    if isinstance(value, dict):
        return {str(key): python(item) for key, item in value.items()}
    if isinstance(value, list):
        return [python(item) for item in value]
    return int(value) if isinstance(value, int) else str(value)


def add(document, operation):
    """RFC 6902's `add`, which is all that the policy uses."""
    if operation["op"] != "add":
        sys.exit(f"{POLICY}: an operation {operation['op']}")
    *parents, last = operation["path"].split("/")[1:]
    for part in parents:
        document = document[int(part) if isinstance(document, list) else part]
    if isinstance(document, list):
        document.insert(len(document) if last == "-" else int(last), operation["value"])
    else:
        document[last] = operation["value"]


def pod(spec, labels=LABEL):
    return {"metadata": {"labels": labels}, "spec": copy.deepcopy(spec)}


# --- the comparisons


def same(what, got, wanted):
    if got != wanted:
        shown = [yaml.safe_dump(side, sort_keys=True) for side in (got, wanted)]
        sys.exit(f"{what} is not the sidecar of deploy/kustomize/components:\n{shown[0]}\n--- but must be\n{shown[1]}")


def compare_policy(kubectl):
    policy, compared = Policy(), 0
    for name, spec in PODS.items():
        for secret in (None, "redis-auth"):
            for cap in (None, "12"):
                params = (
                    PARAMS | ({"passwordSecret": secret} if secret else {}) | ({"maxConnections": cap} if cap else {})
                )
                replaced = {
                    "registry.example/respmux:0.1.0": IMAGE,
                    "redis://redis:6379": UPSTREAM,
                    "secretName: respmux-auth": f"secretName: {secret}",
                    "connections=8": f"connections={cap or 8}",
                }
                wanted = kustomized(kubectl, spec, secret, replaced)
                got = policy.admit(pod(spec), params)["spec"]
                # The order of volumes says nothing; that of init containers does.
                for side in (got, wanted):
                    side.get("volumes", []).sort(key=lambda volume: volume["name"])
                same(f"{POLICY}, {name}", got, wanted)
                compared += 1
    again = policy.admit(pod(PODS["with both"]), PARAMS)
    same("a pod that has respmux already", policy.admit(again, PARAMS), again)
    other = pod(PODS["with both"], {"app": "other"})
    same("a pod without the label", policy.admit(other, PARAMS), other)
    for missing in PARAMS:
        try:
            policy.admit(pod(PODS["with both"]), {key: value for key, value in PARAMS.items() if key != missing})
        except celpy.CELEvalError:
            continue
        sys.exit(f"{POLICY}: a ConfigMap without {missing} lets the pod in")
    return compared


def compare_chart(kubectl, charts):
    for case, password in (("sidecar", True), ("sidecar-without-password", False)):
        spec = yaml.safe_load(Path(charts, case, "deployment.yaml").read_text())["spec"]["template"]["spec"]
        bare = {"containers": [APP]}
        wanted = kustomized(kubectl, bare, password, {"redis://redis:6379": "redis://redis.data:6379"})
        same(f"the Helm library chart, {case}", spec["initContainers"], wanted["initContainers"])
        same(f"the Helm library chart, {case}", spec.get("volumes") or [], wanted.get("volumes", []))


def main():
    kubectl, charts = sys.argv[1:]
    kubectl = str(Path(kubectl).resolve())
    compare_chart(kubectl, charts)
    print(f"the library chart's sidecar is Kustomize's; {compare_policy(kubectl)} pods by the policy, alike")


if __name__ == "__main__":
    main()
