"""Runs the container of a manifest as the kubelet would, as far as Docker can: its command, its environment, its limits."""

from collections.abc import Iterator
from contextlib import contextmanager
import math
from pathlib import Path
import re
import secrets
from typing import Any

from stack import run

import manifests

PASSWORD = secrets.token_hex(24)
NAMESPACE = "rustic-ai"
_BYTES = {"Mi": 2**20, "Gi": 2**30}
_UNPRIVILEGED = (
    "--user",
    "10001:10001",
    "--read-only",
    "--cap-drop",
    "ALL",
    "--security-opt",
    "no-new-privileges:true",
)


def container(name: str) -> manifests.Container:
    """A container of the base, by its name."""
    found = [c for c in manifests.containers(manifests.render("deploy/base")) if c.spec["name"] == name]
    assert len(found) == 1, name
    return found[0]


def size(quantity: str) -> int:
    """Bytes of `512Mi` or `2Gi`."""
    return int(quantity[:-2]) * _BYTES[quantity[-2:]]


def environment(spec: dict[str, Any], pod: str) -> dict[str, str]:
    """What the kubelet would put into a container's environment: fields, resources, the Secret, and `$(VAR)` filled in."""
    fields = {
        "metadata.name": pod,
        "metadata.namespace": NAMESPACE,
        "metadata.uid": "0b5d8f5e-0000-4000-8000-000000000001",
        "status.podIP": "127.0.0.1",
    }
    values: dict[str, str] = {}
    for entry in spec.get("env", []):
        source = entry.get("valueFrom", {})
        if "secretKeyRef" in source:
            value = PASSWORD
        elif "fieldRef" in source:
            value = fields[source["fieldRef"]["fieldPath"]]
        elif "resourceFieldRef" in source:
            value = _resource(spec, source["resourceFieldRef"]["resource"])
        else:
            value = entry["value"]
        values[entry["name"]] = re.sub(r"\$\((\w+)\)", lambda match: values.get(match[1], match[0]), value)
    return values


def _resource(spec: dict[str, Any], path: str) -> str:
    kind, _, name = path.partition(".")
    quantity = str(spec["resources"][kind][name])
    if name == "memory":
        return str(size(quantity))
    # The kubelet rounds up to the divisor, which is one core.
    return str(math.ceil(float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)))


@contextmanager
def running(
    name: str,
    image: str,
    network: str,
    aliases: list[str],
    config: Path | None = None,
    folders: dict[str, Path] | None = None,
    more: dict[str, str] | None = None,
) -> Iterator[str]:
    """Runs a container of the base until the end of the block; yields its id.

    Args:
        name: Its name in the manifests.
        image: What it runs.
        network: Where it is.
        aliases: Further names of it there.
        config: Folder of its configuration, if it has one.
        folders: More that it may read, by place.
        more: More environment.
    """
    spec = container(name).spec
    pod = f"{name}-0"
    arguments = [
        *_UNPRIVILEGED,
        "--network",
        network,
        "--hostname",
        pod,
        "--memory",
        str(size(spec["resources"]["limits"]["memory"])),
    ]
    for alias in [pod, *aliases]:
        arguments += ["--network-alias", alias]
    for place, folder in (folders or {}).items():
        arguments += ["--volume", f"{folder}:{place}:ro"]
    values = environment(spec, pod) | (more or {})
    for variable, value in values.items():
        arguments += ["--env", f"{variable}={value}"]
    for mount in spec.get("volumeMounts", []):
        if mount.get("readOnly"):
            assert config, f"{name} wants a configuration at {mount['mountPath']}"
            arguments += ["--volume", f"{config}:{mount['mountPath']}:ro"]
        else:
            # An emptyDir or a claim with fsGroup: the user of the pod may write to it.
            arguments += ["--tmpfs", f"{mount['mountPath']}:mode=0770,uid=10001,gid=10001"]
    for port in spec["ports"]:
        if port["name"] == "grpc":
            arguments += ["--publish", f"127.0.0.1::{port['containerPort']}"]
    command = [re.sub(r"\$\((\w+)\)", lambda match: values[match[1]], word) for word in spec.get("command", [])]
    if command:
        arguments += ["--entrypoint", command[0]]
    identifier = run("docker", "run", "--detach", *arguments, image, *command[1:])
    try:
        yield identifier
    finally:
        run("docker", "rm", "--force", "--volumes", identifier)


@contextmanager
def network() -> Iterator[str]:
    """A network of its own."""
    name = f"rustic-pods-{secrets.token_hex(3)}"
    run("docker", "network", "create", name)
    try:
        yield name
    finally:
        run("docker", "network", "rm", name)
