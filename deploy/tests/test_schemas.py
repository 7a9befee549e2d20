"""Every manifest is valid for every Kubernetes from 1.29 on; custom resources have what their controllers ask for."""

from typing import Any

import kubernetes_validate
from kubernetes_validate.utils import all_versions, major_minor
import pytest

from manifests import COMPONENTS, TARGETS, Document, name, render

OLDEST = (1, 29)
VERSIONS = sorted(
    {major_minor(v) for v in all_versions() if tuple(map(int, v.split(".")[:2])) >= OLDEST},
    key=lambda v: tuple(map(int, v.split("."))),
)
CUSTOM = {"ScaledObject", "PodMonitor", "PrometheusRule"}


def test_the_versions_include_the_one_that_is_deployed_to() -> None:
    assert VERSIONS[0] == "1.29" and "1.31" in VERSIONS, VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("target", [*TARGETS, *COMPONENTS])
def test_every_manifest_is_valid(target: str, version: str) -> None:
    documents = render(target)
    assert documents
    for document in documents:
        if document["kind"] in CUSTOM:
            continue
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            where = "/".join(map(str, error.path))
            pytest.fail(f"{target}: {name(document)} at {where}: {error.message}", pytrace=False)


def test_a_manifest_with_a_field_too_many_is_found() -> None:
    pod: Document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": [], "wrong": 1},
    }
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, "1.31", strict=True)


@pytest.mark.parametrize("target", TARGETS)
def test_custom_resources_have_what_they_need(target: str) -> None:
    checks = {"ScaledObject": _scaled_object, "PodMonitor": _pod_monitor, "PrometheusRule": _prometheus_rule}
    for document in render(target):
        if document["kind"] in checks:
            assert document["metadata"]["namespace"]
            checks[document["kind"]](document)


def _only(document: dict[str, Any], *fields: str) -> None:
    assert set(document) <= set(fields), f"unknown fields {set(document) - set(fields)}"


def _scaled_object(document: Document) -> None:
    assert document["apiVersion"] == "keda.sh/v1alpha1"
    spec = document["spec"]
    _only(
        spec,
        "scaleTargetRef",
        "pollingInterval",
        "cooldownPeriod",
        "initialCooldownPeriod",
        "idleReplicaCount",
        "minReplicaCount",
        "maxReplicaCount",
        "fallback",
        "advanced",
        "triggers",
    )
    _only(spec["scaleTargetRef"], "apiVersion", "kind", "name", "envSourceContainerName")
    assert 1 <= spec["minReplicaCount"] <= spec["maxReplicaCount"], "0 would end every agent"
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= 300
    (trigger,) = spec["triggers"]
    _only(trigger, "type", "name", "metadata", "metricType", "useCachedMetrics", "authenticationRef")
    assert trigger["type"] == "external"
    assert set(trigger["metadata"]) <= {"scalerAddress", "slotsPerHost", "warmHosts"}
    assert all(isinstance(value, str) for value in trigger["metadata"].values()), "KEDA takes strings only"


def _pod_monitor(document: Document) -> None:
    assert document["apiVersion"] == "monitoring.coreos.com/v1"
    spec = document["spec"]
    _only(spec, "jobLabel", "selector", "namespaceSelector", "podMetricsEndpoints")
    assert spec["selector"] and spec["podMetricsEndpoints"]
    for endpoint in spec["podMetricsEndpoints"]:
        _only(endpoint, "port", "path", "interval", "scrapeTimeout", "relabelings", "metricRelabelings")


def _prometheus_rule(document: Document) -> None:
    assert document["apiVersion"] == "monitoring.coreos.com/v1"
    _only(document["spec"], "groups")
    for group in document["spec"]["groups"]:
        _only(group, "name", "interval", "rules")
        for rule in group["rules"]:
            assert ("alert" in rule) != ("record" in rule)
            assert rule["expr"]
            if "alert" in rule:
                assert rule["labels"]["severity"] in ("page", "ticket")
                assert set(rule["annotations"]) == {"summary", "description"}
