"""A guild of two agents over every kind of message bus that Rustic AI has: they are created, talk, one is restarted, they talk."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import certificates
from conftest import wait_until
from lives import nats_messaging, redis_messaging
import pytest
import redis
from servers import NatsServer, RedisServer, free_port

from rustic_ai.core.guild.agent import Agent, AgentSpec
from rustic_ai.core.guild.builders import AgentBuilder
from rustic_ai.core.guild.guild import Guild
from rustic_ai.core.messaging import AgentTag, Message, MessageConstants, MessagingConfig, Priority
from rustic_ai.core.utils import GemstoneGenerator
from rustic_ai.engine.v1 import engine_service_pb2 as pb
from rustic_ai.k8s import client, errors
from rustic_ai.k8s.execution import K8sExecutionEngine
from rustic_ai.redis.messaging.connection_manager import RedisBackendConfig
from rustic_ai.testing.execution.integration_agents import InitiatorProbeAgent, ResponderProbeAgent

_ENGINE = "rustic_ai.k8s.execution.K8sExecutionEngine"
_SLOTS = 16384

type Start = Callable[[Path, ExitStack], MessagingConfig]


def _plain(directory: Path, stack: ExitStack) -> MessagingConfig:
    server = stack.enter_context(RedisServer(directory))
    # As an object instead of a dictionary.
    config = RedisBackendConfig(host="127.0.0.1", port=server.port)
    return MessagingConfig(**redis_messaging(server.port) | {"backend_config": {"redis_client": config}})


def _tls(directory: Path, stack: ExitStack) -> MessagingConfig:
    authority, certificate, key = certificates.make(directory)
    port = free_port()
    tls = ["--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    tls += ["--tls-ca-cert-file", str(authority), "--tls-auth-clients", "no", "--requirepass", "secret"]
    stack.enter_context(RedisServer(directory, *tls))
    return MessagingConfig(**redis_messaging(port, ssl=True, ssl_ca_certs=str(authority), password="secret"))


def _account(directory: Path, stack: ExitStack) -> MessagingConfig:
    """An account that may do what rusticai-redis does, and nothing else."""
    server = stack.enter_context(RedisServer(directory))
    commands = "+set +get +zadd +zrange +zrangebyscore +publish +subscribe +unsubscribe +hello +auth"
    rules = ["on", ">secret", "~guild-*", "~msg:*", "~eo:pos:*", "&*", *commands.split()]
    admin = server.client()
    admin.execute_command("ACL", "SETUSER", "agents", *rules)
    admin.execute_command("ACL", "SETUSER", "default", "off")
    return MessagingConfig(**redis_messaging(server.port, username="agents", password="secret"))


def _cluster(directory: Path, stack: ExitStack) -> MessagingConfig:
    nodes = []
    for number in range(3):
        folder = directory / str(number)
        folder.mkdir()
        cluster = ["--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-config-file", "nodes"]
        nodes.append((stack.enter_context(RedisServer(folder, *cluster)), int(cluster[3])))
    first, *others = [redis.Redis(port=node.port, decode_responses=True) for node, _ in nodes]
    share = _SLOTS // len(nodes) + 1
    for number, node in enumerate([first, *others]):
        node.execute_command("CLUSTER", "ADDSLOTSRANGE", number * share, min((number + 1) * share, _SLOTS) - 1)
    for node, port in nodes[1:]:
        first.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, port)

    def whole() -> bool:
        return all(
            "cluster_state:ok" in (info := str(node.execute_command("CLUSTER INFO", target_nodes=None)))
            or ("cluster_state" in info and "'ok'" in info)
            for node in (first, *others)
        )

    wait_until("the cluster to be whole", whole)
    return MessagingConfig(**redis_messaging(nodes[0][0].port, is_cluster=True))


def _nats(directory: Path, stack: ExitStack) -> MessagingConfig:
    server = stack.enter_context(NatsServer(directory, "--user", "u", "--pass", "secret"))
    return MessagingConfig(**nats_messaging(server.port, user="u", password="secret"))


@pytest.fixture(params=[_plain, _tls, _account, _cluster, _nats], ids=lambda start: start.__name__.strip("_"))
def bus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MessagingConfig]:
    """A bus of this test's own, and how to reach it."""
    with ExitStack() as stack:
        yield request.param(tmp_path, stack)


def _spec(agent_id: str, kind: type[Agent]) -> AgentSpec:
    return AgentBuilder(kind).set_id(agent_id).set_name(agent_id).set_description("Talks").build_spec()


class _Listener:
    """Speaks to a guild, and hears what it says."""

    def __init__(self, bus: MessagingConfig, guild_id: str) -> None:
        self._backend, self._guild = bus.get_storage(), guild_id
        self._topic = f"{guild_id}:default_topic"
        self._ids = GemstoneGenerator(250)

    def acknowledgements(self) -> int:
        said = [message.payload.get("content", "") for message in self._backend.get_messages_for_topic(self._topic)]
        return sum(content.startswith("Acknowledged") for content in said)

    def converse(self) -> None:
        """Has the first agent ask the second, and waits for its answer."""
        before = self.acknowledgements()
        message = Message(
            topics="default_topic",
            topic_published_to="default_topic",
            sender=AgentTag(id="listener", name="listener"),
            format=MessageConstants.RAW_JSON_FORMAT,
            payload={"content": "Initiate Flow"},
            id_obj=self._ids.get_id(Priority.NORMAL),
        )
        self._backend.store_message(self._guild, self._topic, message)
        wait_until("an answer", lambda: self.acknowledgements() > before)
        assert self.acknowledgements() == before + 1

    def close(self) -> None:
        self._backend.cleanup()


def test_agents_talk_and_are_restarted(bus: MessagingConfig, guild_id: str, org_id: str, redis_url: str) -> None:
    guild = Guild(guild_id, "G", "d", org_id, _ENGINE, bus)
    listener = _Listener(bus, guild_id)
    try:
        guild.launch_agent(_spec("asks", InitiatorProbeAgent))
        guild.launch_agent(_spec("answers", ResponderProbeAgent))
        listener.converse()
        engine = guild._get_execution_engine()
        for agent_id in ("answers", "asks"):
            engine.restart(agent_id)
            listener.converse()
        stub = client.stub(engine.engine_address)
        for agent_id in ("asks", "answers"):
            name = {"organization_id": org_id, "guild_id": guild_id, "agent_id": agent_id}
            assert stub.StopAgent(pb.StopAgentRequest(**name)).exit.code == 0, "it ends when it is asked to, and is not killed"
    finally:
        listener.close()
        guild.shutdown()


def test_a_caller_gets_an_error_that_says_why_the_bus_cannot_be_used(engine: K8sExecutionEngine, tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--requirepass", "right") as server:
        waiting = K8sExecutionEngine(engine.guild_id, engine.organization_id, wait_until_running=True)
        guild = Guild(engine.guild_id, "G", "d", engine.organization_id, _ENGINE, MessagingConfig(**redis_messaging(server.port)))
        with pytest.raises(errors.AgentStartError, match=f"127.0.0.1:{server.port} cannot be used: it demands a password"):
            guild.launch_agent(_spec("a", ResponderProbeAgent), waiting)
