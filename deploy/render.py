#!/usr/bin/env python3
"""Writes deploy/kubernetes from deploy/kustomize, so that each manifest has one source.

`render.py KUBECTL` writes the files, `render.py KUBECTL --check` fails where one is not what it would write. The
MutatingAdmissionPolicy is made of the sidecar component too: its container becomes a CEL expression.
"""

import json
import subprocess
import sys
from pathlib import Path

import yaml

HERE = Path(__file__).parent
RENDERED = "# Rendered by deploy/render.py from deploy/kustomize/{place}: change it there.\n"

PLAIN = {
    "deployment.yaml": (
        "overlays/plain",
        """\
# respmux as a service of its own: all pods of all applications share its upstream connections.
#
#   kubectl create namespace respmux
#   kubectl -n respmux create secret generic respmux-auth --from-literal=password=...
#   kubectl apply -f deployment.yaml
#
# Before that: the image, upstream.url in respmux.toml, and the NetworkPolicy's namespaces. Connections to Redis:
# replicas x upstream.max_connections at most, however many clients there are (during a rollout one replica more).
""",
    ),
    "daemonset.yaml": (
        "overlays/daemonset",
        """\
# respmux once on each node. As in deployment.yaml: namespace, Secret, image, upstream.url and NetworkPolicy first.
#
# Connections to Redis: nodes x upstream.max_connections at most (one more on a node while its pod is replaced). The
# pods of a node reach their own respmux with `trafficDistribution: PreferSameNode` in the Service (Kubernetes 1.35).
""",
    ),
    "sidecar.yaml": (
        "examples/sidecar",
        """\
# respmux beside an application, as a native sidecar (Kubernetes 1.29; stable since 1.33).
#
# The application's only change is REDIS_URL. The sidecar starts before the application and ends after
# it. It has no readiness probe on purpose: that would decide over the whole pod's readiness.
#
# Connections to Redis: pods x --max-upstream-connections at most. One worker needs at least 6.
""",
    ),
}

POLICY_HEAD = """\
# The sidecar for every pod with the label `respmux-sidecar: "true"`, put in by the API server itself: no webhook.
#
# Kubernetes 1.36 or newer. For 1.34 and 1.35 write v1beta1 for v1 in both apiVersions of admissionregistration.k8s.io
# (and switch MutatingAdmissionPolicy on); older ones need a webhook or the Kustomize component.
#
# Each namespace says what its sidecars are to be in a ConfigMap `respmux-sidecar`: `image` and `upstream`, and if need be
# `maxConnections` (8) and `passwordSecret`, a Secret with the key `password`. Without the ConfigMap a pod with the label
# is refused, and `kubectl describe replicaset` says why. The container is that of deploy/kustomize/components/sidecar.
#
#   kubectl -n shop create configmap respmux-sidecar --from-literal=image=registry.example/respmux:0.1.0 \\
#       --from-literal=upstream=redis://redis.data:6379 --from-literal=passwordSecret=respmux-auth
#
# It comes as a JSON patch because an ApplyConfiguration may not set atomic lists such as `args`. It is put first, so that
# the application's own init containers have their Redis.
"""

# What comes first when a person reads; the rest is in alphabetical order.
ORDER = [
    "apiVersion", "kind", "metadata", "type", "name", "namespace", "labels", "annotations", "image",
    "restartPolicy", "args", "env", "ports", "containerPort", "replicas", "minReadySeconds", "revisionHistoryLimit",
    "strategy", "updateStrategy", "selector", "template", "serviceAccountName", "automountServiceAccountToken",
    "enableServiceLinks", "terminationGracePeriodSeconds", "securityContext", "topologySpreadConstraints",
    "initContainers", "containers", "startupProbe", "readinessProbe", "livenessProbe", "resources", "port",
    "volumeMounts", "volumes",
]  # fmt: skip


class Dumper(yaml.SafeDumper):
    """Lists are indented and texts of several lines stay texts of several lines."""

    def increase_indent(self, flow=False, indentless=False):
        return super().increase_indent(flow, False)

    def ignore_aliases(self, _data):
        return True


def text_of(dumper, text):
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


def list_of(dumper, items):
    """Short lists of words stay on one line."""
    short = all(isinstance(item, str) for item in items) and sum(len(item) + 2 for item in items) < 40
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=short)


Dumper.add_representer(str, text_of)
Dumper.add_representer(list, list_of)


def in_order(value):
    if isinstance(value, list):
        return [in_order(item) for item in value]
    if not isinstance(value, dict):
        return value
    keys = sorted(value, key=lambda key: (ORDER.index(key) if key in ORDER else len(ORDER), key))
    return {key: in_order(value[key]) for key in keys}


def dump(documents):
    return "---\n".join(yaml.dump(in_order(d), Dumper=Dumper, sort_keys=False, width=150) for d in documents)


def kustomize(kubectl, place):
    path = HERE / "kustomize" / place
    run = subprocess.run([kubectl, "kustomize", path], check=True, capture_output=True, text=True)
    return list(yaml.safe_load_all(run.stdout))


# --- the policy

# Fields that are maps with keys of the user's: CEL wants {"key": value} there, and Object.…{field: value} elsewhere.
MAPS = {"requests", "limits", "matchLabels", "labels"}

# What the namespace's ConfigMap decides: an argument or field as the component has it, and the CEL in its place.
MAX_CONNECTIONS = '(has(params.data.maxConnections) ? params.data.maxConnections : "8")'
FROM_PARAMS = {
    "registry.example/respmux:0.1.0": "params.data.image",
    "--upstream=redis://redis:6379": '"--upstream=" + params.data.upstream',
    "--max-upstream-connections=8": '"--max-upstream-connections=" + ' + MAX_CONNECTIONS,
    "respmux-auth-secret": "params.data.passwordSecret",
}


def cel(value, path, depth=0):
    """The CEL literal of a value at `path`, such as Object.spec.initContainers."""
    pad, end = "  " * (depth + 1), "  " * depth
    if isinstance(value, dict):
        is_map = path.rsplit(".", 1)[-1] in MAPS
        head = "{" if is_map else path + "{"
        fields = [
            f"{pad}{json.dumps(key) if is_map else key}: {cel(item, f'{path}.{key}', depth + 1)}"
            for key, item in in_order(value).items()
        ]
        return head + "\n" + ",\n".join(fields) + "\n" + end + "}"
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return json.dumps(value)
    if isinstance(value, list):
        items = [pad + cel(item, path, depth + 1) for item in value]
        return "[\n" + ",\n".join(items) + "\n" + end + "]"
    if isinstance(value, str) and value in FROM_PARAMS:
        return FROM_PARAMS[value]
    return json.dumps(value)


def operation(path, value):
    return f'JSONPatch{{op: "add", path: "{path}", value: {value}}}'


def expression(kubectl):
    """The patch: the component's container, and what ../sidecar-password adds to it where a Secret is named."""
    place = "/spec/initContainers"
    with_password = pod_of(kustomize(kubectl, "examples/sidecar"))
    container = in_order(with_password["initContainers"][0])
    container["args"] = [
        arg if not arg.startswith("--upstream=") else "--upstream=redis://redis:6379" for arg in container["args"]
    ]
    env, mounts = container.pop("env"), container.pop("volumeMounts")
    volume = with_password["volumes"][0]
    volume["secret"]["secretName"] = "respmux-auth-secret"
    kind = "Object.spec.initContainers"
    return "\n".join(
        [
            f"(has(object.spec.initContainers) ? [] : [{operation(place, '[]')}]) +",
            f"[{operation(place + '/0', cel(container, kind))}] +",
            "(!has(params.data.passwordSecret) ? [] :",
            "  (has(object.spec.volumes) ? [] : [" + operation("/spec/volumes", "[]") + "]) + [",
            indented(operation(place + "/0/env", cel(env, kind + ".env")) + ",", 4),
            indented(operation(place + "/0/volumeMounts", cel(mounts, kind + ".volumeMounts")) + ",", 4),
            indented(operation("/spec/volumes/-", cel(volume, "Object.spec.volumes")), 4),
            "  ])",
        ]
    )


def indented(text, by):
    return "\n".join(" " * by + line for line in text.splitlines())


def pod_of(documents):
    return next(d for d in documents if d["kind"] == "Deployment")["spec"]["template"]["spec"]


def policy(kubectl):
    api = "admissionregistration.k8s.io/v1"
    return [
        {
            "apiVersion": api,
            "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": "respmux-sidecar"},
            "spec": {
                "failurePolicy": "Fail",
                "reinvocationPolicy": "Never",
                "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
                "matchConstraints": {
                    "objectSelector": {"matchLabels": {"respmux-sidecar": "true"}},
                    "resourceRules": [
                        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
                    ],
                },
                "matchConditions": [
                    {
                        "name": "has-none-yet",
                        "expression": "!has(object.spec.initContainers) || "
                        '!object.spec.initContainers.exists(c, c.name == "respmux")',
                    }
                ],
                "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": expression(kubectl) + "\n"}}],
            },
        },
        {
            "apiVersion": api,
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": "respmux-sidecar"},
            # Without a namespace: the ConfigMap of the pod's own.
            "spec": {
                "policyName": "respmux-sidecar",
                "paramRef": {"name": "respmux-sidecar", "parameterNotFoundAction": "Deny"},
            },
        },
    ]


def files(kubectl):
    for name, (place, head) in PLAIN.items():
        yield name, head + RENDERED.format(place=place) + dump(kustomize(kubectl, place))
    yield "sidecar-injection.yaml", POLICY_HEAD + RENDERED.format(place="components/sidecar") + dump(policy(kubectl))


def main():
    kubectl, check = sys.argv[1], sys.argv[2:] == ["--check"]
    stale = []
    for name, text in files(kubectl):
        path = HERE / "kubernetes" / name
        if not check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(str(path))
    if stale:
        sys.exit(f"not what deploy/render.py writes (make package WHAT=manifests): {', '.join(stale)}")


if __name__ == "__main__":
    main()
