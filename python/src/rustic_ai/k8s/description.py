"""What K8sExecutionEngine says of agents and hosts."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from google.protobuf.timestamp_pb2 import Timestamp

from rustic_ai.agent.v1 import agent_pb2
from rustic_ai.core.guild.agent import AgentSpec
from rustic_ai.engine.v1 import engine_service_pb2 as pb


def phase_of(agent: agent_pb2.Agent) -> str:
    """The phase of an agent, in one word."""
    return agent_pb2.AgentPhase.Name(agent.phase).removeprefix("AGENT_PHASE_")


@dataclass(frozen=True)
class AgentDescription:
    """An agent, as the engine knows it.

    Attributes:
        organization_id: Its guild's organization.
        guild_id: Its guild.
        agent_id: Its id.
        spec: Its spec, as it was launched.
        phase: `PENDING`, `STARTING`, `RUNNING`, `RESTARTING`, `STOPPING` or `FAILED`.
        reason: Why it is in this phase, in one CamelCase word of `docs/reasons.md`; empty when all is well.
        message: The same in a sentence; empty when all is well.
        host_id: The host that runs it, or ran it last; empty while it waits for one.
        pid: Its process there, or 0.
        epoch: Its fencing token.
        machine_id: Its number in its guild.
        restarts: Restarts in place.
        created: When it was created.
        running_since: When it became RUNNING last, if it ever has.
        last_lines: The last lines it wrote, if it has failed.
    """

    organization_id: str
    guild_id: str
    agent_id: str
    spec: AgentSpec
    phase: str
    reason: str
    message: str
    host_id: str
    pid: int
    epoch: int
    machine_id: int
    restarts: int
    created: datetime | None
    running_since: datetime | None
    last_lines: tuple[str, ...]

    @classmethod
    def of(cls, agent: agent_pb2.Agent) -> Self:
        """Reads the message of the engine, in its full view."""
        return cls(
            organization_id=agent.organization_id,
            guild_id=agent.guild_id,
            agent_id=agent.agent_id,
            spec=AgentSpec.model_validate_json(agent.agent_spec),
            phase=phase_of(agent),
            reason=agent.reason,
            message=agent.message,
            host_id=agent.host_id,
            pid=agent.pid,
            epoch=agent.epoch,
            machine_id=agent.machine_id,
            restarts=agent.restarts,
            created=_time(agent.create_time) if agent.HasField("create_time") else None,
            running_since=_time(agent.last_running_time) if agent.HasField("last_running_time") else None,
            last_lines=tuple(agent.last_lines),
        )


@dataclass(frozen=True)
class HostDescription:
    """A host, as the engine knows it.

    Attributes:
        host_id: Its id, the pod's name.
        state: `READY`, `DRAINING` or `EXPIRED`.
        capacity: What it has, by resource.
        used: What its agents reserved, by resource.
        labels: Labels it announced.
        version: Version of its program.
    """

    host_id: str
    state: str
    capacity: dict[str, float]
    used: dict[str, float]
    labels: dict[str, str]
    version: str

    @classmethod
    def of(cls, host: pb.Host) -> Self:
        """Reads the message of the engine."""
        return cls(
            host_id=host.host_id,
            state=pb.HostState.Name(host.state).removeprefix("HOST_STATE_"),
            capacity=dict(host.capacity),
            used=dict(host.used),
            labels=dict(host.labels),
            version=host.version,
        )


def _time(timestamp: Timestamp) -> datetime:
    return timestamp.ToDatetime(tzinfo=UTC)
