"""The stack of docker/compose.yaml under a name of its own, and what can be done to it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import json
import os
from pathlib import Path
import secrets
import shutil
import subprocess
import time
from typing import NamedTuple, TypeVar

import grpc
import pytest

from rustic_ai.agent.v1 import agent_pb2
from rustic_ai.engine.v1 import engine_service_pb2 as pb
from rustic_ai.engine.v1.engine_service_pb2_grpc import EngineServiceStub

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ("agent-host-0", "agent-host-1", "agent-host-2")
T = TypeVar("T")
# Read from /proc, as the container has no ps: process id, threads, command.
_LIST_PROCESSES = """
import json, os, pathlib
rows = []
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        command = (folder / "cmdline").read_bytes().replace(b"\\0", b" ").decode().strip()
        threads = len(list((folder / "task").iterdir()))
    except OSError:
        continue
    if int(folder.name) != os.getpid():
        rows.append((int(folder.name), threads, command))
print(json.dumps(rows))
"""


class Process(NamedTuple):
    """A process in a container."""

    pid: int
    threads: int
    command: str


def run(*command: str, environment: dict[str, str] | None = None, timeout: float = 120) -> str:
    """Runs a command and returns its output. An error fails the test with its words."""
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}", pytrace=False)
    return done.stdout.strip()


def wait_until(what: str, look: Callable[[], T], seconds: float) -> T:
    """Looks until there is something to see; fails with the last thing seen."""
    give_up, last = time.monotonic() + seconds, "nothing"
    while time.monotonic() < give_up:
        try:
            seen = look()
        except grpc.RpcError as error:
            last = f"{error.code()}: {error.details()}"
        else:
            if seen:
                return seen
            last = repr(seen)
        time.sleep(0.1)
    pytest.fail(f"{what}: not after {seconds} s; last seen: {last}", pytrace=False)


def version() -> str:
    """The version of this project, which is the tag of its images."""
    line = next(line for line in (ROOT / "Cargo.toml").read_text().splitlines() if line.startswith("version = "))
    return line.split('"')[1]


def compose_command() -> list[str]:
    """How compose is called here."""
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ["docker", "compose"]
    pytest.fail("docker compose is missing: install docker-compose or the plug-in docker-compose-plugin", pytrace=False)


class Stack:
    """A running stack."""

    def __init__(self, project: str) -> None:
        self.password = secrets.token_hex(24)
        self._environment = os.environ | {
            "REDIS_PASSWORD": self.password,
            # Ports that are free, so that the stack never meets another one.
            "RUSTIC_ENGINE_PORT": "0",
            "RUSTIC_ENGINE_PORT_1": "0",
            "RUSTIC_PROMETHEUS_PORT": "0",
        }
        self._compose = [*compose_command(), "-p", project, "-f", str(ROOT / "docker/compose.yaml")]

    def compose(self, *arguments: str, timeout: float = 120) -> str:
        """Calls compose."""
        return run(*self._compose, *arguments, environment=self._environment, timeout=timeout)

    def container(self, service: str) -> str:
        """The id of a service's container."""
        return self.compose("ps", "-q", service)

    def address(self, service: str, port: int) -> str:
        """Where a published port of a service is, from outside."""
        return self.compose("port", service, str(port))

    def redis_url(self) -> str:
        """An address of Redis that is the same from outside and from the containers."""
        template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return f"redis://:{self.password}@{run('docker', 'inspect', '-f', template, self.container('redis'))}:6379/0"

    @contextmanager
    def engine(self, service: str = "engine-svc-0") -> Iterator[EngineServiceStub]:
        """A stub of one engine."""
        with grpc.insecure_channel(self.address(service, 50051)) as channel:
            yield EngineServiceStub(channel)

    def ready_hosts(self) -> set[str]:
        """Names of hosts that take agents."""
        with self.engine() as engine:
            hosts = engine.ListHosts(pb.ListHostsRequest(), timeout=5).hosts
        return {host.host_id for host in hosts if host.state == pb.HOST_STATE_READY}

    def agents(self, guild: str) -> dict[str, agent_pb2.Agent]:
        """The agents of a guild, by id."""
        with self.engine() as engine:
            request = pb.ListAgentsRequest(guild_id=guild, page_size=1000)
            return {agent.agent_id: agent for agent in engine.ListAgents(request, timeout=5).agents}

    def processes(self, service: str) -> list[Process]:
        """Every process in a host's container, without the one that looks."""
        output = run("docker", "exec", self.container(service), "python3", "-c", _LIST_PROCESSES)
        return [Process(*row) for row in json.loads(output)]


@contextmanager
def running() -> Iterator[Stack]:
    """A stack, taken down with its volumes in the end."""
    stack = Stack(f"rustic-test-{secrets.token_hex(3)}")
    try:
        stack.compose("--profile", "metrics", "up", "-d")
        yield stack
    finally:
        stack.compose("--profile", "metrics", "down", "-v", "--timeout", "5")
