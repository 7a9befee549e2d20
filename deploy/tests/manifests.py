"""Manifests as they reach a cluster, and what they hold."""

import atexit
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
import shutil
import tempfile
from typing import Any

import yaml

from tools import ROOT, run

Document = dict[str, Any]
WORKLOADS = ("Deployment", "StatefulSet")
FOLDERS = ("deploy", "hpa", "examples")


@cache
def _copy() -> Path:
    """A copy of all manifests with a password where one is asked for, which the repository does not have."""
    root = Path(tempfile.mkdtemp(prefix="deploy-tests-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    for folder in FOLDERS:
        ignored = shutil.ignore_patterns("tests", "redis.env", "postgres.env")
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    for secret in ("deploy/overlays/minimal/redis.env", "examples/api-server/postgres.env"):
        (root / secret).write_text("password=test\n")
    return root


def _kind(kustomization: Path) -> str:
    return yaml.safe_load(kustomization.read_text())["kind"]


def _folders(kind: str) -> list[str]:
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("kustomization.yaml")]
    return sorted(str(file.parent.relative_to(ROOT)) for file in files if _kind(file) == kind)


TARGETS = _folders("Kustomization")
COMPONENTS = _folders("Component")
# Those that hold the whole installation.
WHOLE = ["deploy/base", "deploy", *(target for target in TARGETS if target.startswith("deploy/overlays/"))]


@cache
def render(target: str) -> list[Document]:
    """What `kubectl apply -k` would send. A component is added to the base."""
    folder = _copy() / target
    if target in COMPONENTS:
        folder = Path(tempfile.mkdtemp(prefix="with-component-", dir=_copy() / "deploy"))
        depth = "../.."
        text = {"resources": ["../base"], "components": [f"{depth}/{target}"]}
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(text))
    return [document for document in yaml.safe_load_all(run("kubectl", "kustomize", folder)) if document]


def of_kind(documents: list[Document], *kinds: str) -> list[Document]:
    """The documents of these kinds."""
    return [document for document in documents if document["kind"] in kinds]


def name(document: Document) -> str:
    """`Kind/name`, for messages."""
    return f"{document['kind']}/{document['metadata']['name']}"


def pod_labels(workload: Document) -> dict[str, str]:
    """The labels of a workload's pods."""
    return workload["spec"]["template"]["metadata"]["labels"]


def pod_spec(workload: Document) -> Document:
    """The spec of a workload's pods."""
    return workload["spec"]["template"]["spec"]


def selects(selector: Document | None, labels: dict[str, str]) -> bool:
    """Whether a label selector selects labels. An empty one selects everything, none selects nothing."""
    if selector is None:
        return False
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for expression in selector.get("matchExpressions", []):
        values = expression.get("values", [])
        match expression["operator"]:
            case "In" if labels.get(expression["key"]) not in values:
                return False
            case "NotIn" if labels.get(expression["key"]) in values:
                return False
            case "Exists" if expression["key"] not in labels:
                return False
            case "DoesNotExist" if expression["key"] in labels:
                return False
    return True


@dataclass(frozen=True)
class Container:
    """A container with the workload it belongs to."""

    workload: Document
    spec: Document

    def __str__(self) -> str:
        return f"{name(self.workload)}/{self.spec['name']}"

    def env(self) -> dict[str, str]:
        """Variables that have a value written down."""
        return {entry["name"]: entry["value"] for entry in self.spec.get("env", []) if "value" in entry}

    def env_names(self) -> set[str]:
        """Names of all variables."""
        return {entry["name"] for entry in self.spec.get("env", [])}


def containers(documents: list[Document]) -> Iterator[Container]:
    """Every container of every workload."""
    for workload in of_kind(documents, *WORKLOADS):
        spec = pod_spec(workload)
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            yield Container(workload, container)


def settings_flags(container: Container) -> dict[str, str]:
    """Flags given as arguments, `--drain-timeout 5s` or `--drain-timeout=5s`, by name without dashes."""
    flags, arguments = {}, [str(argument) for argument in container.spec.get("args", [])]
    for index, argument in enumerate(arguments):
        if argument.startswith("--"):
            flag, equals, value = argument[2:].partition("=")
            flags[flag] = value if equals else arguments[index + 1] if index + 1 < len(arguments) else ""
    return flags
