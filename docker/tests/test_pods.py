"""The manifests' containers start with the commands, variables, volumes and limits that the manifests give them.

There is no kubelet here: `pod` does by hand what one would do. What is left to a cluster is scheduling and networking.
"""

from collections.abc import Iterator
from dataclasses import dataclass
import json
from pathlib import Path

import grpc
import pytest

import pod
from rustic_ai.engine.v1 import engine_service_pb2 as pb
from rustic_ai.engine.v1.engine_service_pb2_grpc import EngineServiceStub
from stack import run, version, wait_until

import manifests
import sources


@dataclass
class Pods:
    """Containers of the base."""

    redis: str
    engine: str
    host: str

    def address(self, container: str, port: int) -> str:
        """Where a port is, from outside."""
        return run("docker", "port", container, str(port)).splitlines()[0]


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    """Redis, an engine and a host, as the base describes them."""
    (config,) = (
        document
        for document in manifests.of_kind(manifests.render("deploy/base"), "ConfigMap")
        if document["metadata"]["name"] == "redis"
    )
    folder = _readable_by_all(tmp_path_factory.mktemp("redis"))
    for name, text in config["data"].items():
        (folder / name).write_text(text)
    tag = version()
    with (
        pod.network() as network,
        pod.running("redis", f"rustic-redis:{tag}", network, ["redis"], config=folder) as redis,
        pod.running("engine-svc", f"engine-svc:{tag}", network, ["engine-svc", "engine-svc.rustic-ai"]) as engine,
        pod.running("agent-host", f"agent-host:{tag}", network, []) as host,
    ):
        yield Pods(redis, engine, host)


def _readable_by_all(folder: Path) -> Path:
    for part in (folder, *folder.parents[:2]):
        part.chmod(0o755)
    return folder


def _runs(container: str, command: list[str]) -> bool:
    try:
        run("docker", "exec", container, *command)
    except pytest.fail.Exception:
        return False
    return True


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_redis_passes_its_probes(pods: Pods, probe: str) -> None:
    command = pod.container("redis").spec[probe]["exec"]["command"]
    wait_until(f"{probe} of Redis passes", lambda: _runs(pods.redis, command), 30)


def test_redis_writes_to_its_volume_and_asks_for_the_password(pods: Pods) -> None:
    wait_until("Redis answers", lambda: _runs(pods.redis, ["redis-cli", "ping"]), 30)
    assert run("docker", "exec", pods.redis, "redis-cli", "config", "get", "maxmemory-policy").endswith("noeviction")
    assert "appendonly.aof.manifest" in run("docker", "exec", pods.redis, "ls", "/data/appendonlydir")
    assert "NOAUTH" in run("docker", "exec", "--env", "REDISCLI_AUTH=", pods.redis, "redis-cli", "dbsize")


def test_a_host_announces_what_its_pod_has(pods: Pods) -> None:
    with grpc.insecure_channel(pods.address(pods.engine, 50051)) as channel:
        engine = EngineServiceStub(channel)
        (host,) = wait_until("the host is there", lambda: engine.ListHosts(pb.ListHostsRequest(), timeout=5).hosts, 60)
    spec = pod.container("agent-host").spec
    assert host.host_id == "agent-host-0"
    assert host.incarnation.startswith("0b5d8f5e-0000-4000-8000-000000000001.")
    assert host.capacity["slots"] == int(pod.environment(spec, "agent-host-0")["AGENT_HOST_MAX_AGENTS"])
    assert host.capacity["memory"] == pod.size(spec["resources"]["limits"]["memory"])
    assert host.capacity["cpus"] == 1
    assert host.address == "127.0.0.1:50052"


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
@pytest.mark.parametrize("program", ["engine-svc", "agent-host"])
def test_the_programs_pass_their_probes(pods: Pods, program: str, probe: str) -> None:
    asked = pod.container(program).spec[probe]["grpc"]
    container = pods.engine if program == "engine-svc" else pods.host
    with grpc.insecure_channel(pods.address(container, asked["port"])) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")

        def serves(service: str) -> bool:
            # HealthCheckRequest{service}, HealthCheckResponse{status: SERVING}, written by hand: two fields, no package.
            request = bytes([0x0A, len(service)]) + service.encode() if service else b""
            return check(request, timeout=5) == b"\x08\x01"

        wait_until(f"{probe} of {program} passes", lambda: serves(asked["service"]), 60)


def test_an_engine_can_carry_out_its_hook(pods: Pods) -> None:
    command = pod.container("engine-svc").spec["lifecycle"]["preStop"]["exec"]["command"]
    run("docker", "exec", pods.engine, command[0], "0")


@pytest.mark.parametrize("program", ["agent-host", "engine-svc", "redis"])
def test_pods_end_by_themselves_within_their_grace_period(pods: Pods, program: str) -> None:
    container = {"agent-host": pods.host, "engine-svc": pods.engine, "redis": pods.redis}[program]
    grace = manifests.pod_spec(pod.container(program).workload)["terminationGracePeriodSeconds"]
    run("docker", "stop", "--time", str(grace), container)
    (told,) = json.loads(run("docker", "inspect", container))
    assert told["State"]["ExitCode"] == 0, run("docker", "logs", "--tail", "20", container)
