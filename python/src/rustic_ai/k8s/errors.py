"""What can go wrong between a guild and engine-svc, as exceptions that name the agent, the host and the reason."""

from dataclasses import dataclass, field

from google.rpc import error_details_pb2
import grpc
from grpc_status import rpc_status

from rustic_ai.agent.v1 import agent_pb2
from rustic_ai.k8s.description import phase_of


class K8sEngineError(RuntimeError):
    """A call to engine-svc failed.

    Attributes:
        agent: `guild/agent` the call was about, or empty.
        code: gRPC status code.
        reason: Why, in UPPER_SNAKE_CASE, as `docs/errors.md` lists it with what to do; ENGINE_UNREACHABLE if engine-svc did not answer at
            all; empty if whoever answered was not engine-svc.
        host: Id of the host that answered, or empty.
        phase: Phase of the agent, such as FAILED, if that is what is wrong; else empty.
        agent_reason: Why the agent is in that phase, in one CamelCase word of `docs/reasons.md`; else empty.
        retry_after: Seconds after which the same call may succeed by itself; None if something has to be changed first.
        fields: Wrong request fields and what is wrong with them.
        traceback: Traceback of the agent's own error, or empty.
    """

    def __init__(self, message: str, agent: str, code: grpc.StatusCode, details: "Details") -> None:
        super().__init__(message)
        self.agent = agent
        self.code = code
        self.reason = details.reason
        self.host = details.host
        self.phase = details.phase
        self.agent_reason = details.agent_reason
        self.retry_after = details.retry_after
        self.fields = details.fields
        self.traceback = details.traceback


class InvalidAgentError(K8sEngineError):
    """The request is wrong or too large, or the agent's class cannot be imported; `fields` says what is wrong."""


class AgentUnknownError(K8sEngineError):
    """There is no such agent: it was never created, or was stopped."""


class AgentConflictError(K8sEngineError):
    """An agent with this id exists with another launch, or another organization has this guild id on the same message bus."""


class AgentStartError(K8sEngineError):
    """The agent could not be started; `traceback` holds its own error."""


class AgentTimeoutError(K8sEngineError):
    """The agent was not ready, or the call not done, in time."""


class NoRoomError(K8sEngineError):
    """No host has room for the agent."""


class AgentTooLargeError(NoRoomError):
    """No host could ever hold the agent, however empty: the message says what it asks for, and what there is."""


class HostExhaustedError(NoRoomError):
    """The hosts with room for the agent lack what every process needs: descriptors, process ids, memory or disk.

    The message says what, and what can be done about it. The same call may succeed later.
    """


class EngineUnavailableError(K8sEngineError):
    """engine-svc, the registry or the agent's host cannot be reached."""


_CLASSES: dict[grpc.StatusCode, type[K8sEngineError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidAgentError,
    grpc.StatusCode.NOT_FOUND: AgentUnknownError,
    grpc.StatusCode.ALREADY_EXISTS: AgentConflictError,
    grpc.StatusCode.FAILED_PRECONDITION: AgentStartError,
    grpc.StatusCode.DEADLINE_EXCEEDED: AgentTimeoutError,
    grpc.StatusCode.UNAVAILABLE: EngineUnavailableError,
}

# What means another thing than others of its code.
_BY_REASON: dict[str, type[K8sEngineError]] = {
    "GUILD_ID_SHARED": AgentConflictError,
    "REQUEST_TOO_LARGE": InvalidAgentError,
}

# What RESOURCE_EXHAUSTED means, by reason. Without one of ours it is something else.
_NO_ROOM: dict[str, type[NoRoomError]] = {
    "AGENT_TOO_LARGE": AgentTooLargeError,
    "NO_ROOM": NoRoomError,
    "HOST_FULL": NoRoomError,
    "GUILD_TOO_LARGE": NoRoomError,
    "HOST_EXHAUSTED": HostExhaustedError,
}


@dataclass
class Details:
    """Rich details of a gRPC status."""

    reason: str = ""
    host: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    traceback: str = ""
    phase: str = ""
    agent_reason: str = ""
    retry_after: float | None = None


def read_details(error: grpc.RpcError) -> Details:
    """Reads the rich details that engine-svc attaches to its errors."""
    details = Details()
    status = rpc_status.from_call(error)
    for packed in status.details if status is not None else ():
        info, bad, debug, retry = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.DebugInfo(),
            error_details_pb2.RetryInfo(),
        )
        if packed.Unpack(info):
            details.reason = info.reason
            details.host = info.metadata.get("host_id", "")
            details.agent_reason = info.metadata.get("agent_reason", "")
            details.phase = "FAILED" if details.reason == "AGENT_FAILED" else ""
        elif packed.Unpack(bad):
            details.fields = {violation.field: violation.description for violation in bad.field_violations}
        elif packed.Unpack(debug):
            details.traceback = "\n".join(debug.stack_entries)
        elif packed.Unpack(retry):
            details.retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    return details


def wrong(agent: str, field: str, what: str) -> InvalidAgentError:
    """What is to be launched is wrong, and need not be sent to be known so.

    Args:
        agent: `guild/agent`.
        field: What is wrong.
        what: What is wrong with it.
    """
    details = Details(reason="INVALID_REQUEST", fields={f"launch.{field}": what})
    return InvalidAgentError(f"agent {agent}: {field} {what}", agent, grpc.StatusCode.INVALID_ARGUMENT, details)


def not_running(agent: agent_pb2.Agent, address: str) -> K8sEngineError:
    """The agent was accepted, but did not run before its caller's patience was over. It waits on."""
    subject = f"{agent.guild_id}/{agent.agent_id}"
    message = f"agent {subject} does not run yet: {agent.message or 'it is being started'} [engine-svc at {address}]"
    details = Details(reason="NOT_READY", phase=phase_of(agent), agent_reason=agent.reason, host=agent.host_id)
    return AgentTimeoutError(message, subject, grpc.StatusCode.DEADLINE_EXCEEDED, details)


def failed(agent: agent_pb2.Agent, address: str) -> K8sEngineError:
    """The agent was accepted, and failed."""
    subject = f"{agent.guild_id}/{agent.agent_id}"
    message = f"agent {subject} has failed: {agent.message} [engine-svc at {address}]"
    details = Details(reason="AGENT_FAILED", phase="FAILED", agent_reason=agent.reason, host=agent.host_id)
    return AgentStartError(message, subject, grpc.StatusCode.FAILED_PRECONDITION, details)


def unreachable(why: Exception, action: str, agent: str, address: str) -> EngineUnavailableError:
    """No connection to engine-svc came to be: most often its address is wrong.

    Args:
        why: What stood in the way.
        action: What was tried, such as `create`.
        agent: `guild/agent`, or the guild.
        address: Address of engine-svc.
    """
    message = (
        f"cannot {action} {agent}: engine-svc cannot be reached at {address} ({why}); "
        "set RUSTIC_ENGINE_ADDRESS to its host:port, or wait until it runs"
    )
    return EngineUnavailableError(message, agent, grpc.StatusCode.UNAVAILABLE, Details(reason="ENGINE_UNREACHABLE"))


def translate(error: grpc.RpcError, action: str, agent: str, address: str) -> K8sEngineError:
    """Turns a gRPC error into the exception a guild's author can act on.

    Args:
        error: What gRPC raised.
        action: What was tried, such as `create`.
        agent: `guild/agent`, or the guild.
        address: Address of engine-svc.
    """
    code = error.code()
    details = read_details(error)
    message = f"cannot {action} {agent}: {error.details()} [{code.name} from engine-svc at {address}]"
    if details.traceback:
        message = f"{message}\n{details.traceback}"
    return _class(code, details.reason)(message, agent, code, details)


def _class(code: grpc.StatusCode, reason: str) -> type[K8sEngineError]:
    if reason in _BY_REASON:
        return _BY_REASON[reason]
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED and reason in _NO_ROOM:
        return _NO_ROOM[reason]
    return _CLASSES.get(code, K8sEngineError)
