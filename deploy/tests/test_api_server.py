"""examples/api-server: who reaches the database, and what is told its address."""

import re

from manifests import WORKLOADS, Container, containers, name, of_kind, pod_spec, render
from test_network import CALLER, ENGINE, HOST, PORTS, REDIS, STRANGER, Pod, _app, _reaches
from tools import ROOT

EXAMPLE = "examples/api-server"
API_SERVER = Pod(
    {"app.kubernetes.io/name": "api-server", "rustic-ai/engine-caller": "true", "rustic-ai/redis-caller": "true"}
)
POSTGRES = _app("postgres")
BROWSERS_PROXY = Pod({"rustic-ai/api-caller": "true"})
DATABASE, HTTP = ("postgres", 5432), ("http", 8880)


def _container(wanted: str) -> Container:
    (found,) = (container for container in containers(render(EXAMPLE)) if container.spec["name"] == wanted)
    return found


def test_hosts_and_the_api_server_reach_the_database_and_nobody_else() -> None:
    policies = of_kind(render(EXAMPLE), "NetworkPolicy")
    everybody = {"host": HOST, "api server": API_SERVER, "engine": ENGINE, "caller": CALLER, "stranger": STRANGER}
    reached = {who for who, pod in everybody.items() if _reaches(policies, pod, POSTGRES, DATABASE)}
    assert reached == {"host", "api server"}
    # Without this example they do not: that is what it is for.
    without = of_kind(render("deploy/overlays/minimal"), "NetworkPolicy")
    assert not _reaches(without, HOST, POSTGRES, DATABASE)


def test_the_api_server_reaches_what_it_needs_and_only_labelled_pods_reach_it() -> None:
    policies = of_kind(render(EXAMPLE), "NetworkPolicy")
    assert _reaches(policies, API_SERVER, ENGINE, PORTS["grpc-engine"])
    assert _reaches(policies, API_SERVER, REDIS, PORTS["redis"])
    assert not _reaches(policies, API_SERVER, HOST, PORTS["grpc-host"])
    far = Pod(BROWSERS_PROXY.labels, "ingress", {"rustic-ai/callers": "true"})
    assert _reaches(policies, far, API_SERVER, HTTP)
    for pod in (HOST, ENGINE, CALLER, STRANGER, Pod(BROWSERS_PROXY.labels, "elsewhere")):
        assert not _reaches(policies, pod, API_SERVER, HTTP)


def test_the_pods_are_those_that_the_policies_were_tried_with() -> None:
    labels = {
        w["metadata"]["name"]: w["spec"]["template"]["metadata"]["labels"] for w in of_kind(render(EXAMPLE), *WORKLOADS)
    }
    assert labels.keys() == {"agent-host", "api-server", "engine-svc", "postgres", "redis"}
    assert API_SERVER.labels.items() <= labels["api-server"].items()
    assert POSTGRES.labels.items() <= labels["postgres"].items()


def test_addresses_are_services_that_hosts_resolve() -> None:
    services = {
        (s["metadata"]["name"], p["port"]) for s in of_kind(render(EXAMPLE), "Service") for p in s["spec"]["ports"]
    }
    env = _container("api-server").env()
    engine, port = env["RUSTIC_ENGINE_ADDRESS"].split(".rustic-ai:")
    assert (engine, int(port)) in services
    database = re.fullmatch(
        r"postgresql\+psycopg://(\w+):\$\(POSTGRES_PASSWORD\)@postgres\.rustic-ai:5432/(\w+)", env["RUSTIC_METASTORE"]
    )
    assert database and ("postgres", 5432) in services
    server = _container("postgres").env()
    assert (server["POSTGRES_USER"], server["POSTGRES_DB"]) == (database[1], database[2])
    assert '"host": "redis.rustic-ai", "port": 6379' in env["RUSTIC_AI_MESSAGING_BACKEND_CONFIG"]
    assert ("redis", 6379) in services


def test_passwords_come_from_secrets_and_hosts_are_given_none_of_the_database() -> None:
    secrets = {s["metadata"]["name"].rsplit("-", 1)[0]: set(s["data"]) for s in of_kind(render(EXAMPLE), "Secret")}
    assert secrets == {"redis": {"password"}, "postgres": {"password"}}
    # Agents inherit what their host has.
    assert not [
        variable
        for variable in _container("agent-host").env_names()
        if "POSTGRES" in variable or "METASTORE" in variable
    ]
    declared: set[str] = set()
    for entry in _container("api-server").spec["env"]:
        assert set(re.findall(r"\$\((\w+)\)", entry.get("value", ""))) <= declared, entry["name"]
        declared.add(entry["name"])


def test_its_pods_have_no_privileges_and_are_probed_and_bounded() -> None:
    ours = [w for w in of_kind(render(EXAMPLE), *WORKLOADS) if w["metadata"]["name"] in ("api-server", "postgres")]
    for workload in ours:
        spec = pod_spec(workload)
        assert spec["securityContext"]["runAsNonRoot"] is True, name(workload)
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name(workload)
        assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False, name(workload)
    for container in containers(ours):
        security = container.spec["securityContext"]
        assert security["readOnlyRootFilesystem"] is True, str(container)
        assert security["capabilities"] == {"drop": ["ALL"]}, str(container)
        assert security["allowPrivilegeEscalation"] is False, str(container)
        assert set(container.spec["resources"]["limits"]) == {"memory"}, str(container)
        assert {"startupProbe", "readinessProbe", "livenessProbe"} < set(container.spec), str(container)


def test_images_are_those_that_the_dockerfile_makes_and_both_have_the_driver() -> None:
    dockerfile = (ROOT / EXAMPLE / "Dockerfile").read_text()
    for container in ("api-server", "agent-host"):
        image = _container(container).spec["image"]
        assert re.search(rf"--target \w+ -t {re.escape(image)} \.", dockerfile), image
    (driver,) = re.findall(r"^psycopg\[binary\]==\S+", (ROOT / EXAMPLE / "requirements.txt").read_text(), re.MULTILINE)
    assert f"'{driver}'" in dockerfile, "hosts and API server have the same"
