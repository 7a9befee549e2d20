"""Fixtures for tests against a running stack.

`make test-python` starts the stack and sets `RUSTIC_ENGINE_ADDRESS` and `RUSTIC_REDIS_URL`.
"""

from collections.abc import Callable, Iterator
import contextlib
import os
from pathlib import Path
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any
from urllib.parse import urlparse
import uuid

import pytest

from rustic_ai.core.agents.testutils.probe_agent import EssentialProbeAgent
from rustic_ai.core.guild.agent_ext.mixins.health import HealthCheckRequest, HealthConstants
from rustic_ai.core.guild.builders import AgentBuilder
from rustic_ai.core.guild.execution.sync.sync_exec_engine import SyncExecutionEngine
from rustic_ai.core.guild.guild import Guild
from rustic_ai.core.messaging import MessagingConfig
from rustic_ai.core.utils.basic_class_utils import get_qualified_class_name
from rustic_ai.k8s.execution import K8sExecutionEngine

# Only a bound: nothing waits longer than it must.
PATIENCE = 120.0
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def redis_url() -> str:
    """URL of the stack's Redis."""
    url = os.environ.get("RUSTIC_REDIS_URL")
    if not url:
        pytest.fail("these tests need a running stack; use `make test-python`")
    return url


@pytest.fixture
def messaging(redis_url: str) -> MessagingConfig:
    """Messaging over the stack's Redis."""
    url = urlparse(redis_url)
    return MessagingConfig(
        backend_module="rustic_ai.redis.messaging.backend",
        backend_class="RedisMessagingBackend",
        backend_config={"redis_client": {"host": url.hostname, "port": url.port}},
    )


@pytest.fixture
def org_id() -> str:
    """Organization of the test guilds."""
    return "test-org"


@pytest.fixture
def guild_id() -> str:
    """A guild of this test's own."""
    return f"guild-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def engine(guild_id: str, org_id: str, redis_url: str) -> Iterator[K8sExecutionEngine]:
    """An engine whose agents are stopped with the test."""
    engine = K8sExecutionEngine(guild_id, org_id)
    yield engine
    engine.shutdown()


class Cluster:
    """An engine of its own over the stack's Redis, with hosts of its own."""

    def __init__(self, redis_url: str, work_dir: Path, ends: contextlib.ExitStack) -> None:
        """Starts the engine."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._work_dir = work_dir
        self._registry = ("--redis-url", redis_url, "--redis-prefix", uuid.uuid4().hex)
        self._ends = ends
        self._start("engine-svc", "--listen", self.address, "--new-registry")

    def add_host(self, name: str, room: int) -> None:
        """Starts one more host, with room for so many agents. It may or may not be ready yet."""
        settings = ("--host-id", name, "--listen", "127.0.0.1:0", "--max-agents", str(room), "--work-dir", str(self._work_dir))
        # A guild manager keeps its guild in a file of the test.
        settings += ("--confinement-write", tempfile.gettempdir())
        self._start("agent-host", *settings, "--engine-address", self.address, "--python", sys.executable)

    def _start(self, program: str, *arguments: str) -> None:
        command = [f"{ROOT}/target/debug/{program}", *arguments, *self._registry]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._ends.callback(process.wait)
        self._ends.callback(process.terminate)


@pytest.fixture
def cluster(redis_url: str, tmp_path: Path) -> Iterator[Cluster]:
    """An engine of this test's own, without hosts yet."""
    with contextlib.ExitStack() as ends:
        yield Cluster(redis_url, tmp_path, ends)


class Probe:
    """Hears how the agents of a managed guild are."""

    def __init__(self, guild: Guild) -> None:
        """Joins the guild, in this process."""
        spec = (
            AgentBuilder(EssentialProbeAgent)
            .set_id("probe")
            .set_name("Probe")
            .set_description("Listens to the manager")
            .add_additional_topic("guild_status_topic")
            .build_spec()
        )
        self._local = SyncExecutionEngine(guild_id=guild.id, organization_id=guild.organization_id)
        self._probe = guild._add_local_agent(spec, self._local)

    def reports(self) -> list[dict[str, Any]]:
        """Asks for a report; all that were heard so far, each by agent."""
        self._probe.publish_dict(
            topic=HealthConstants.HEARTBEAT_TOPIC,
            payload=HealthCheckRequest().model_dump(),
            format=get_qualified_class_name(HealthCheckRequest),
        )
        return [m.payload["agents"] for m in self._probe.get_messages() if m.format.endswith("AgentsHealthReport")]

    def close(self) -> None:
        """Leaves."""
        self._local.shutdown()


def wait_until[T](what: str, look: Callable[[], T | None]) -> T:
    """Waits until `look` gives something; on timeout says what was waited for and what was seen last."""
    give_up = time.monotonic() + PATIENCE
    while not (seen := look()):
        assert time.monotonic() < give_up, f"waited for {what}, last saw {seen!r}"
        time.sleep(0.05)
    return seen
