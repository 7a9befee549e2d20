"""Whatever a manifest names exists: selectors, ports, Secrets, ConfigMaps, accounts, targets of autoscalers."""

from collections.abc import Iterator
import re
from typing import Any

import pytest

from manifests import WHOLE, WORKLOADS, containers, name, of_kind, pod_labels, pod_spec, render, selects

# Secrets that people make before they install, with their keys: docs/deployment.md tells how.
PREPARED = {"redis": {"password"}}
AUTOSCALERS = ["hpa/cpu-memory", "hpa/occupancy", "hpa/keda"]


@pytest.fixture(params=WHOLE)
def documents(request: pytest.FixtureRequest) -> list[dict]:
    return render(request.param)


def _named(documents: list[dict], kind: str, wanted: str) -> dict:
    found = [document for document in of_kind(documents, kind) if document["metadata"]["name"] == wanted]
    assert found, f"there is no {kind} {wanted}"
    return found[0]


def _port_names(workload: dict) -> set[str]:
    return {port["name"] for container in pod_spec(workload)["containers"] for port in container.get("ports", [])}


def _ports(workload: dict) -> set[str | int]:
    numbers = {p["containerPort"] for container in pod_spec(workload)["containers"] for p in container.get("ports", [])}
    return _port_names(workload) | numbers


def _workloads(documents: list[dict], selector: dict) -> list[dict]:
    return [workload for workload in of_kind(documents, *WORKLOADS) if selects(selector, pod_labels(workload))]


def test_everything_lives_in_one_namespace(documents: list[dict]) -> None:
    (namespace,) = of_kind(documents, "Namespace")
    for document in documents:
        if document["kind"] != "Namespace":
            assert document["metadata"]["namespace"] == namespace["metadata"]["name"], name(document)


def test_no_two_documents_have_one_name(documents: list[dict]) -> None:
    names = [name(document) for document in documents]
    assert len(names) == len(set(names)), sorted(names)


def test_workloads_select_their_own_pods_only(documents: list[dict]) -> None:
    for workload in of_kind(documents, *WORKLOADS):
        assert _workloads(documents, workload["spec"]["selector"]) == [workload], name(workload)


def test_services_select_pods_that_have_the_port(documents: list[dict]) -> None:
    for service in of_kind(documents, "Service"):
        (workload,) = _workloads(documents, {"matchLabels": service["spec"]["selector"]})
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in _port_names(workload), name(service)


def test_budgets_cover_one_workload_and_leave_room_to_drain_nodes(documents: list[dict]) -> None:
    covered = set()
    for budget in of_kind(documents, "PodDisruptionBudget"):
        (workload,) = _workloads(documents, budget["spec"]["selector"])
        assert budget["spec"]["maxUnavailable"] == 1, name(budget)
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow", name(budget)
        covered.add(workload["metadata"]["name"])
    # Redis has one pod: a budget could only keep nodes from being drained at all.
    assert covered == {"engine-svc", "agent-host"}


def test_statefulsets_name_their_service_and_pods_their_account(documents: list[dict]) -> None:
    for workload in of_kind(documents, *WORKLOADS):
        if workload["kind"] == "StatefulSet":
            _named(documents, "Service", workload["spec"]["serviceName"])
        _named(documents, "ServiceAccount", pod_spec(workload)["serviceAccountName"])


def test_secrets_and_configmaps_exist(documents: list[dict]) -> None:
    secrets = {s["metadata"]["name"]: set(s.get("data", {})) for s in of_kind(documents, "Secret")} or PREPARED
    used: set[str] = set()
    for container in containers(documents):
        for entry in container.spec.get("env", []):
            reference = entry.get("valueFrom", {}).get("secretKeyRef")
            if reference:
                assert reference["key"] in secrets.get(reference["name"], set()), f"{container}: {reference}"
                used.add(reference["name"])
    assert used == set(secrets)
    for workload in of_kind(documents, *WORKLOADS):
        for volume in pod_spec(workload).get("volumes", []):
            if "configMap" in volume:
                _named(documents, "ConfigMap", volume["configMap"]["name"])


def test_mounts_have_volumes_and_probes_have_ports(documents: list[dict]) -> None:
    for container in containers(documents):
        claims = container.workload["spec"].get("volumeClaimTemplates", [])
        volumes = {v["name"] for v in pod_spec(container.workload).get("volumes", [])}
        volumes |= {claim["metadata"]["name"] for claim in claims}
        mounted = {mount["name"] for mount in container.spec.get("volumeMounts", [])}
        assert mounted == volumes, str(container)
        ports = {port["containerPort"] for port in container.spec["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if "grpc" in container.spec[probe]:
                assert container.spec[probe]["grpc"]["port"] in ports, f"{container}: {probe}"


def test_addresses_in_the_environment_are_services(documents: list[dict]) -> None:
    ports = {s["metadata"]["name"]: {p["port"] for p in s["spec"]["ports"]} for s in of_kind(documents, "Service")}
    seen = set()
    for container in containers(documents):
        for variable, value in container.env().items():
            address = re.search(r"(?:@|^)([a-z][a-z-]*)(?:\.\$\(\w+\))?:(\d+)(?:/|$)", value)
            if address:
                assert int(address[2]) in ports.get(address[1], set()), f"{container}: {variable}={value}"
                seen.add(variable)
    assert seen == {"ENGINE_SVC_REDIS_URL", "AGENT_HOST_REDIS_URL", "AGENT_HOST_ENGINE_ADDRESS"}


def test_a_host_tells_the_name_that_its_service_gives_it(documents: list[dict]) -> None:
    (hosts,) = (s for s in of_kind(documents, "StatefulSet") if s["metadata"]["name"] == "agent-host")
    (service,) = (s for s in of_kind(documents, "Service") if s["metadata"]["name"] == hosts["spec"]["serviceName"])
    assert service["spec"]["clusterIP"] == "None", "only a headless service gives pods their names"
    assert service["spec"]["publishNotReadyAddresses"], "a host that drains keeps its name"
    (container,) = containers([hosts])
    name = f"$(AGENT_HOST_HOST_ID).{service['metadata']['name']}.$(AGENT_HOST_NAMESPACE).svc"
    assert container.env()["AGENT_HOST_DNS_NAME"] == name


def _peers(policies: list[dict]) -> Iterator[tuple[dict, str, dict[str, Any]]]:
    for policy in policies:
        for direction in ("ingress", "egress"):
            for rule in policy["spec"].get(direction, []):
                yield policy, direction, rule


def test_policies_name_pods_and_ports_that_exist(documents: list[dict]) -> None:
    for policy, direction, rule in _peers(of_kind(documents, "NetworkPolicy")):
        ports = {port["port"] for port in rule.get("ports", [])}
        if direction == "ingress":
            servers = _workloads(documents, policy["spec"]["podSelector"])
        else:
            servers = [
                w for peer in rule["to"] if "podSelector" in peer for w in _workloads(documents, peer["podSelector"])
            ]
        for workload in servers:
            assert ports <= _ports(workload), f"{name(policy)}: {ports}"


@pytest.mark.parametrize("autoscaler", AUTOSCALERS)
@pytest.mark.parametrize("installation", ["deploy/overlays/production", "deploy/overlays/minimal"])
def test_autoscalers_name_what_is_installed(autoscaler: str, installation: str) -> None:
    installed = render(installation)
    scalers = of_kind(render(autoscaler), "HorizontalPodAutoscaler", "ScaledObject")
    assert len(scalers) == 1, "one autoscaler a target"
    for scaler in scalers:
        target = scaler["spec"]["scaleTargetRef"]
        host = _named(installed, target["kind"], target["name"])
        assert target["apiVersion"] == host["apiVersion"]
        assert scaler["metadata"]["namespace"] == host["metadata"]["namespace"]
        for metric in scaler["spec"].get("metrics", []):
            if metric["type"] == "ContainerResource":
                named = metric["containerResource"]
                (container,) = (c for c in pod_spec(host)["containers"] if c["name"] == named["container"])
                # Percentages are of requests: without one the autoscaler does nothing.
                assert named["name"] in container["resources"]["requests"]
        for trigger in scaler["spec"].get("triggers", []):
            service, _, rest = trigger["metadata"]["scalerAddress"].partition(".")
            found = _named(installed, "Service", service)
            assert rest == f"{found['metadata']['namespace']}.svc:{found['spec']['ports'][0]['port']}"


@pytest.mark.parametrize("autoscaler", AUTOSCALERS)
def test_autoscalers_scale_in_slowly_and_keep_two_hosts(autoscaler: str) -> None:
    (scaler,) = of_kind(render(autoscaler), "HorizontalPodAutoscaler", "ScaledObject")
    spec = scaler["spec"]
    advanced = spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", {})
    down = (spec.get("behavior") or advanced["behavior"])["scaleDown"]
    assert down["stabilizationWindowSeconds"] >= 600
    assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 300}]
    assert spec.get("minReplicas", spec.get("minReplicaCount")) >= 2


def test_an_autoscaled_overlay_leaves_the_number_of_hosts_alone() -> None:
    documents = render("deploy/overlays/autoscaled")
    assert "replicas" not in _named(documents, "StatefulSet", "agent-host")["spec"]
    assert len(of_kind(documents, "HorizontalPodAutoscaler", "ScaledObject")) == 1


def test_keda_is_told_how_many_slots_a_host_has() -> None:
    (scaled,) = of_kind(render("hpa/keda"), "ScaledObject")
    (host,) = (c for c in containers(render("deploy/base")) if c.spec["name"] == "agent-host")
    slots = scaled["spec"]["triggers"][0]["metadata"]["slotsPerHost"]
    assert slots == host.env()["AGENT_HOST_MAX_AGENTS"], "KEDA reads it once: it must not depend on what hosts announce"
