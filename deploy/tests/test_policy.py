"""What every pod must be: without privileges, probed, and bounded."""

import pytest
import yaml

from manifests import WHOLE, WORKLOADS, containers, name, of_kind, pod_labels, pod_spec, render, selects
from tools import ROOT

SERVICES = {"engine-svc", "agent-host"}


@pytest.fixture(params=WHOLE)
def documents(request: pytest.FixtureRequest) -> list[dict]:
    return render(request.param)


def test_the_namespace_enforces_restricted(documents: list[dict]) -> None:
    (namespace,) = of_kind(documents, "Namespace")
    labels = namespace["metadata"]["labels"]
    for mode in ("enforce", "audit", "warn"):
        assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"
        assert labels[f"pod-security.kubernetes.io/{mode}-version"] == "v1.29"


def test_pods_have_no_privileges(documents: list[dict]) -> None:
    workloads = of_kind(documents, *WORKLOADS)
    assert {workload["metadata"]["name"] for workload in workloads} == SERVICES | {"redis"}
    for workload in workloads:
        spec = pod_spec(workload)
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True, name(workload)
        assert (security["runAsUser"], security["runAsGroup"]) == (10001, 10001), name(workload)
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name(workload)
        for field in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
            assert not spec.get(field), f"{name(workload)}: {field}"
        for volume in spec.get("volumes", []):
            assert set(volume) - {"name"} <= {"configMap", "emptyDir", "secret", "projected"}, (
                f"{name(workload)}: {volume}"
            )
    for container in containers(documents):
        security = container.spec["securityContext"]
        assert security["allowPrivilegeEscalation"] is False, str(container)
        assert security["readOnlyRootFilesystem"] is True, str(container)
        assert security["capabilities"] == {"drop": ["ALL"]}, str(container)
        assert not security.get("privileged"), str(container)
        assert all("hostPort" not in port for port in container.spec["ports"]), str(container)


def test_pods_have_no_token_and_no_variables_of_services(documents: list[dict]) -> None:
    for workload in of_kind(documents, *WORKLOADS):
        spec = pod_spec(workload)
        assert spec["automountServiceAccountToken"] is False, name(workload)
        assert spec["serviceAccountName"] != "default", name(workload)
        # A Service called agent-host would set AGENT_HOST_PORT and the like, which look like settings.
        assert spec["enableServiceLinks"] is False, name(workload)
    for account in of_kind(documents, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False, name(account)


def test_containers_have_all_probes(documents: list[dict]) -> None:
    for container in containers(documents):
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert probe in container.spec, f"{container}: {probe}"
        if container.spec["name"] in SERVICES:
            services = {
                probe: container.spec[probe]["grpc"]["service"] for probe in container.spec if probe.endswith("Probe")
            }
            # A Redis outage shows in readiness. If the kubelet acted on it, it would kill running agents.
            assert services == {"startupProbe": "liveness", "readinessProbe": "readiness", "livenessProbe": "liveness"}
            liveness = container.spec["livenessProbe"]
            assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 30, str(container)


def test_containers_have_requests_and_a_memory_limit_and_no_processor_limit(documents: list[dict]) -> None:
    for container in containers(documents):
        resources = container.spec["resources"]
        assert {"cpu", "memory"} <= set(resources["requests"]), str(container)
        # A limit of processor time throttles whole pods, and a throttled host or Redis loses leases.
        assert set(resources["limits"]) == {"memory"}, str(container)


def test_images_are_pinned(documents: list[dict]) -> None:
    for container in containers(documents):
        image = container.spec["image"]
        tag = image.rsplit("/", 1)[-1].partition(":")[2]
        assert tag and tag != "latest", image
        assert container.spec["imagePullPolicy"] == "IfNotPresent", str(container)


def test_emptydirs_have_a_limit_and_roots_are_read_only_beside_them(documents: list[dict]) -> None:
    for workload in of_kind(documents, *WORKLOADS):
        for volume in pod_spec(workload).get("volumes", []):
            if "emptyDir" in volume:
                assert volume["emptyDir"]["sizeLimit"], f"{name(workload)}: {volume['name']}"
    (host,) = (c for c in containers(documents) if c.spec["name"] == "agent-host")
    mounts = {mount["mountPath"] for mount in host.spec["volumeMounts"]}
    assert {"/tmp", host.env()["AGENT_HOST_WORK_DIR"]} <= mounts


def test_services_are_replaced_soon_and_spread(documents: list[dict]) -> None:
    for workload in of_kind(documents, *WORKLOADS):
        if workload["metadata"]["name"] not in SERVICES:
            continue
        spec = pod_spec(workload)
        tolerated = {(t["key"], t["effect"]): t["tolerationSeconds"] for t in spec["tolerations"]}
        assert tolerated == {
            ("node.kubernetes.io/not-ready", "NoExecute"): 30,
            ("node.kubernetes.io/unreachable", "NoExecute"): 30,
        }
        for constraint in spec["topologySpreadConstraints"]:
            assert selects(constraint["labelSelector"], pod_labels(workload)), name(workload)


def test_the_hosts_are_a_statefulset_as_their_names_demand(documents: list[dict]) -> None:
    (host,) = (d for d in of_kind(documents, "StatefulSet") if d["metadata"]["name"] == "agent-host")
    assert host["spec"]["podManagementPolicy"] == "Parallel"
    (service,) = (d for d in of_kind(documents, "Service") if d["metadata"]["name"] == host["spec"]["serviceName"])
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    (container,) = (c for c in containers(documents) if c.spec["name"] == "agent-host")
    fields = {
        e["name"]: e["valueFrom"]["fieldRef"]["fieldPath"]
        for e in container.spec["env"]
        if "fieldRef" in e.get("valueFrom", {})
    }
    assert fields["AGENT_HOST_HOST_ID"] == "metadata.name"
    assert fields["AGENT_HOST_POD_UID"] == "metadata.uid"
    assert fields["AGENT_HOST_ADVERTISE_IP"] == "status.podIP"


def test_redis_keeps_what_it_is_told(documents: list[dict]) -> None:
    (config,) = (d for d in of_kind(documents, "ConfigMap") if d["metadata"]["name"] == "redis")
    lines = config["data"]["redis.conf"].splitlines()
    for line in ("appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction"):
        assert line in lines
    (redis,) = (c for c in containers(documents) if c.spec["name"] == "redis")
    assert "--requirepass" in redis.spec["command"]
    assert redis.workload["spec"]["replicas"] == 1
    assert [claim["metadata"]["name"] for claim in redis.workload["spec"]["volumeClaimTemplates"]] == ["data"]
    limit = redis.spec["resources"]["limits"]["memory"]
    assert limit == "1Gi" and "maxmemory 512mb" in lines, "rewriting the file needs room beside the data"


def test_no_secret_is_in_the_repository() -> None:
    for file in [*(ROOT / "deploy").rglob("*.yaml"), *(ROOT / "hpa").rglob("*.yaml")]:
        for document in yaml.safe_load_all(file.read_text()):
            assert not document or document.get("kind") != "Secret", file
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "redis.env" in ignored


def test_every_file_of_the_base_can_be_applied_alone() -> None:
    files = [file for file in (ROOT / "deploy/base").rglob("*.yaml") if file.name != "kustomization.yaml"]
    assert len(files) > 5
    for file in files:
        for document in yaml.safe_load_all(file.read_text()):
            if document["kind"] != "Namespace":
                assert document["metadata"]["namespace"] == "rustic-ai", f"{file}: {name(document)}"
