"""The manifests' containers start with the commands, variables, volumes and limits that the manifests give them.

There is no kubelet here: `pod` does by hand what one would do. What is left to a cluster is scheduling and networking.
"""

from collections.abc import Iterator
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

import grpc
import pytest

import pod
from rustic_ai.agent.v1 import agent_pb2
from rustic_ai.agent_host.v1 import agent_host_service_pb2 as host_pb
from rustic_ai.agent_host.v1.agent_host_service_pb2_grpc import AgentHostServiceStub
from rustic_ai.engine.v1 import engine_service_pb2 as pb
from rustic_ai.engine.v1.engine_service_pb2_grpc import EngineServiceStub
from stack import ROOT, run, version, wait_until

import manifests
import sources


# Where agents of these tests find their classes.
_MODULES = {"PYTHONPATH": "/modules", "AGENT_HOST_CONFINEMENT_READ": "/modules"}
_ATTACK = ROOT / "tests/src/attack.py"
_ATTACKER = """
from rustic_ai.core.guild.agent import Agent
import attack

class Attacker(Agent):
    def __init__(self):
        attack.attack()
"""
# Has what others would like to have, and says where.
_VICTIM = r"""
import json, os, socket
from rustic_ai.core.guild.agent import Agent

class Victim(Agent):
    def __init__(self):
        open("secret", "w").write("secret")
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(f"\0victim-{os.getpid()}")
        self.socket.listen()
        secret = os.path.abspath("secret")
        print("VICTIM", json.dumps({"secret": secret, "program": secret, "abstract": f"victim-{os.getpid()}", "victim": os.getpid()}), flush=True)
"""


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
        pod.running("agent-host", f"agent-host:{tag}", network, [], None, _with_modules(tmp_path_factory), _MODULES) as host,
    ):
        yield Pods(redis, engine, host)


def _with_modules(folders: pytest.TempPathFactory) -> dict[str, Path]:
    folder = _readable_by_all(folders.mktemp("modules"))
    for name, text in {"attack": _ATTACK.read_text(), "attacker": _ATTACKER, "victim": _VICTIM}.items():
        (folder / f"{name}.py").write_text(text)
    return {"/modules": folder}


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


def _said(container: str, agent: str, word: str) -> list[dict[str, Any]]:
    """What an agent has printed after a word."""
    lines = (json.loads(line) for line in run("docker", "logs", container).splitlines() if line.startswith("{"))
    messages = (line["message"] for line in lines if line.get("agent_id") == agent and line.get("target") == "agent")
    return [json.loads(message.removeprefix(word)) for message in messages if message.startswith(word)]


def _launch(organization: str, agent: str, name: str, environment: dict[str, str]) -> agent_pb2.AgentLaunch:
    spec = {"id": agent, "name": agent, "description": "for a test", "class_name": name}
    messaging = {
        "backend_module": "rustic_ai.core.messaging.backend",
        "backend_class": "InMemoryMessagingBackend",
        "backend_config": {},
    }
    return agent_pb2.AgentLaunch(
        organization_id=organization,
        agent_spec=json.dumps(spec),
        guild_spec=json.dumps({"id": "g", "name": "g", "description": "for a test"}),
        messaging_config=json.dumps(messaging),
        runtime=agent_pb2.Runtime(python=agent_pb2.PythonRuntime()),
        environment=environment,
    )


def test_an_agent_reaches_nothing_of_others_in_the_restricted_container(pods: Pods) -> None:
    with grpc.insecure_channel(pods.address(pods.host, 50052)) as channel:
        host = AgentHostServiceStub(channel)

        def create(launch: agent_pb2.AgentLaunch) -> None:
            request = host_pb.CreateAgentRequest(launch=launch)
            # A registry that is new settles first.
            wait_until("the agent runs", lambda: host.CreateAgent(request, timeout=60).agent.pid, 60)

        create(_launch("another", "victim", "victim.Victim", {"SECRET": "secret"}))
        (target,) = wait_until("the victim is there", lambda: _said(pods.host, "victim", "VICTIM "), 30)
        work = pod.environment(pod.container("agent-host").spec, "agent-host-0")["AGENT_HOST_WORK_DIR"]
        (lock,) = run("docker", "exec", pods.host, "sh", "-c", f"ls {work}/*.lock").split()
        library = run("docker", "exec", pods.host, "python", "-c", "import json; print(json.__file__)")
        target |= {"host": 1, "work_dir": work, "lock": lock, "library": library, "level": "standard"}
        target |= {"password": pod.PASSWORD, "home": "/root", "port": 6379}
        # A forked one, one in a fresh interpreter, and the second life of the first.
        for agent, more in {"forked": {}, "cold": {"PYTHONHASHSEED": "1"}}.items():
            create(_launch("attackers", agent, "attacker.Attacker", {"ATTACK": json.dumps(target)} | more))
        pid = host.GetAgent(
            host_pb.GetAgentRequest(organization_id="attackers", guild_id="g", agent_id="forked"), timeout=5
        ).agent.pid
        run("docker", "exec", pods.host, "sh", "-c", f"kill -9 {pid}")
        for agent, lives in {"forked": 2, "cold": 1}.items():
            for attack in wait_until(
                f"{lives} lives of {agent}",
                lambda agent=agent, lives=lives: (said := _said(pods.host, agent, "ATTACKED "))[lives - 1 :] and said,
                60,
            ):
                assert attack["reached"] == {} and attack["tried"] >= 55, (agent, attack)
        health = host.Health(host_pb.HealthRequest(), timeout=5)
        assert not health.confinement.missing, health.confinement


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
