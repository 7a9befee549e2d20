"""The agents of a run: creates, lists and stops them through any engine that answers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
import time
from typing import Any
import uuid

import grpc

from chaos import lifeline, processes
from chaos.checker import Life, Seen
from chaos.network import boottime
from rustic_ai.agent.v1 import agent_pb2
from rustic_ai.core.guild.agent import AgentSpec
from rustic_ai.core.guild.dsl import GuildSpec
from rustic_ai.core.messaging import MessagingConfig
from rustic_ai.engine.v1 import engine_service_pb2 as pb
from rustic_ai.k8s import client

_CLASS = "chaos.lifeline.LifelineAgent"
_PAGE = 1000
# A try of a call, and the pause after one that nobody answered.
_TRY, _PAUSE = 30.0, 0.1
# A lifeline whose last tick is older is not written any more; machines in need of processors get as much.
_FRESH = 2.0
_AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@dataclass(frozen=True)
class Name:
    """Who an agent is."""

    guild: str
    agent: str

    def __str__(self) -> str:
        """`guild/agent`, as everywhere else."""
        return f"{self.guild}/{self.agent}"

    @property
    def topic(self) -> str:
        """Topic of the messages to this agent alone."""
        return f"ask-{self.agent}"


class Agents:
    """Agents, as callers of the engines see them."""

    def __init__(self, engines: list[str], bus: tuple[str, int], lifelines: Path) -> None:
        """Remembers addresses; connects with the first call.

        Args:
            engines: Addresses of the engines.
            bus: Host and port of the Redis for messages.
            lifelines: Folder of lifelines.
        """
        self._engines = engines
        self._lifelines = lifelines
        self.accepted: dict[str, Name] = {}
        self.stopped: dict[str, int] = {}
        self.messaging = MessagingConfig(
            backend_module="rustic_ai.redis.messaging.backend",
            backend_class="RedisMessagingBackend",
            backend_config={"redis_client": {"host": bus[0], "port": bus[1]}},
        )

    def create(self, name: Name, seconds: float) -> None:
        """Creates an agent and returns when an engine has accepted it; PENDING is fine.

        Raises:
            grpc.RpcError: It was refused, or nobody answered in time.
        """
        guild = GuildSpec(id=name.guild, name=name.guild, description="A guild of the chaos test")
        spec: AgentSpec[Any] = AgentSpec(
            id=name.agent,
            name=name.agent,
            description="An agent of the chaos test",
            class_name=_CLASS,
            additional_topics=[name.topic],
            listen_to_default_topic=False,
        )
        launch = agent_pb2.AgentLaunch(
            agent_spec=spec.model_dump_json(),
            guild_spec=guild.model_dump_json(),
            messaging_config=self.messaging.model_dump_json(),
            placement=agent_pb2.Placement(movable=True),
        )
        request = pb.CreateAgentRequest(request_id=str(uuid.uuid4()), launch=launch, pending=pb.PENDING_POLICY_WAIT_FOR_ROOM)
        self.call("CreateAgent", request, seconds)
        self.accepted[str(name)] = name

    def stop(self, name: Name, seconds: float) -> None:
        """Stops an agent; one that is gone already is no error."""
        # From here on it is not missed, whatever becomes of the call.
        self.accepted.pop(str(name), None)
        request = pb.StopAgentRequest(guild_id=name.guild, agent_id=name.agent)
        try:
            self.call("StopAgent", request, seconds)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
        self.stopped[str(name)] = boottime()

    def stop_guild(self, guild: str, seconds: float) -> None:
        """Stops all agents of a guild."""
        gone = [name for name in self.accepted.values() if name.guild == guild]
        for name in gone:
            self.accepted.pop(str(name))
        self.call("StopGuild", pb.StopGuildRequest(guild_id=guild), seconds)
        self.stopped |= {str(name): boottime() for name in gone}

    def call(self, method: str, request: Any, seconds: float, each: float = _TRY) -> Any:
        """Calls one engine after the other until one answers; every call of theirs is idempotent.

        Raises:
            grpc.RpcError: A refusal, or the last error when the time is over.
        """
        give_up, turn = time.monotonic() + seconds, hash(str(request)) % len(self._engines)
        while True:
            address = self._engines[turn % len(self._engines)]
            left = give_up - time.monotonic()
            call: Callable[..., Any] = getattr(client.stub(address), method)
            try:
                return call(request, timeout=max(0.1, min(each, left)))
            except grpc.RpcError as error:
                if error.code() not in _AGAIN or time.monotonic() + _PAUSE >= give_up:
                    raise
                turn += 1
                time.sleep(_PAUSE)

    def rows(self, seconds: float) -> list[agent_pb2.Agent]:
        """All agents of all guilds. Raises grpc.RpcError when no engine answers in time."""
        request, agents = pb.ListAgentsRequest(page_size=_PAGE), []
        while True:
            response = self.call("ListAgents", request, seconds, each=seconds / 2)
            agents += response.agents
            if not response.next_page_token:
                return agents
            request.page_token = response.next_page_token

    def look(self, seconds: float = 2.0) -> dict[str, Seen]:
        """How all agents are, by `guild/agent`. Raises grpc.RpcError when no engine answers in time."""
        return {f"{row.guild_id}/{row.agent_id}": self._seen(row) for row in self.rows(seconds)}

    def _seen(self, row: agent_pb2.Agent) -> Seen:
        phase = agent_pb2.AgentPhase.Name(row.phase).removeprefix("AGENT_PHASE_")
        path = self._lifelines / lifeline.file_name(row.guild_id, row.agent_id, row.epoch, row.pid)
        tick = lifeline.last_tick(path) if processes.lives(row.pid) else None
        return Seen(phase, row.reason, tick is not None and boottime() - tick < _FRESH * 1e9)

    def lives(self) -> list[Life]:
        """All lives so far."""
        found = [Life(*lifeline.read(path)) for path in self._lifelines.iterdir()]
        return [life for life in found if life.ticks]
