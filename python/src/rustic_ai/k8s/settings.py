"""Settings of the engine: keyword arguments first, then environment variables, then defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, field
import json
import os
from pathlib import Path
import socket
from typing import Any

from google.protobuf import json_format

from rustic_ai.agent.v1 import agent_pb2
from rustic_ai.engine.v1 import engine_service_pb2 as pb
from rustic_ai.k8s.inheritance import inherited

# The file in which Kubernetes gives a pod its namespace.
_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
# Namespace of our manifests.
_NAMESPACE = "rustic-ai"
_SERVICE = "engine-svc"
_PORT = 50051
# Set in the environment of every agent that a host starts.
_AGENT = "RUSTIC_AGENT_ID"


@dataclass(frozen=True)
class EngineSettings:
    """How to reach engine-svc, how long to wait for it, and how to launch.

    Attributes:
        address: `host:port` of engine-svc.
        create_timeout: Seconds an agent gets to become ready.
        call_timeout: Seconds every other call gets.
        detach: Whether `shutdown` leaves the agents running.
        profile: Runtime profile of the hosts in which agents run; empty: the hosts' own.
        pending: What happens to agents for which no host has room.
        proxy: Whether calls go through the proxy that the environment names.
        waits: Whether a launch waits until the agent runs, instead of until it was accepted.
        reports: Whether a launch that fails is reported to the guild and logged, instead of raised.
        inherited: Variables that launches carry, so that agents launch others in the same way.
        placement: Where agents may be, and would rather be.
    """

    address: str
    create_timeout: float
    call_timeout: float
    detach: bool
    profile: str
    pending: pb.PendingPolicy = pb.PENDING_POLICY_WAIT_FOR_ROOM
    proxy: bool = False
    waits: bool = False
    reports: bool = False
    inherited: dict[str, str] = field(default_factory=dict)
    placement: agent_pb2.Placement = field(default_factory=agent_pb2.Placement)

    @classmethod
    def read(
        cls,
        engine_address: str | None,
        namespace: str | None,
        detach: bool | None,
        profile: str | None = None,
        wait_for_any_host: bool | None = None,
        wait_until_running: bool | None = None,
        placement: Mapping[str, Any] | None = None,
    ) -> "EngineSettings":
        """Reads the settings.

        Raises:
            ValueError: An environment variable cannot be understood; the message names it.
        """
        explicit = {
            "RUSTIC_ENGINE_ADDRESS": engine_address,
            "RUSTIC_K8S_NAMESPACE": namespace,
            "RUSTIC_DETACH_ON_SHUTDOWN": None if detach is None else str(detach).lower(),
            "RUSTIC_RUNTIME_PROFILE": profile,
            "RUSTIC_WAIT_FOR_ANY_HOST": None if wait_for_any_host is None else str(wait_for_any_host).lower(),
            "RUSTIC_LAUNCH_WAIT": None if wait_until_running is None else _WAITS[wait_until_running],
            "RUSTIC_PLACEMENT": None if placement is None else json.dumps(placement),
        }
        said = {name: value for name, value in explicit.items() if value}
        environment = {**os.environ, **said}
        wait_for_any_host = _flag(environment, "RUSTIC_WAIT_FOR_ANY_HOST")
        reports = _choice(environment, "RUSTIC_LAUNCH_ERRORS", ("raise", "report"), int(_AGENT in environment))
        return cls(
            address=environment.get("RUSTIC_ENGINE_ADDRESS")
            or _default_address(environment.get("RUSTIC_K8S_NAMESPACE")),
            create_timeout=_seconds(environment, "RUSTIC_CREATE_TIMEOUT", 120.0),
            call_timeout=_seconds(environment, "RUSTIC_CALL_TIMEOUT", 20.0),
            detach=_flag(environment, "RUSTIC_DETACH_ON_SHUTDOWN"),
            profile=environment.get("RUSTIC_RUNTIME_PROFILE", ""),
            pending=(
                pb.PENDING_POLICY_WAIT_FOR_ANY_HOST if wait_for_any_host else pb.PENDING_POLICY_WAIT_FOR_ROOM
            ),
            proxy=_flag(environment, "RUSTIC_ENGINE_PROXY"),
            waits=_choice(environment, "RUSTIC_LAUNCH_WAIT", _WAITS, 0) == 1,
            reports=reports == 1,
            inherited=inherited(os.environ, said),
            placement=_placement(environment.get("RUSTIC_PLACEMENT", "")),
        )


_WAITS = ("accepted", "running")


def _default_address(namespace: str | None) -> str:
    """The engine of the given namespace; else that of the pod's own namespace, if there is one, else that of our manifests."""
    namespace = namespace or _pod_namespace() or _NAMESPACE
    return f"{_SERVICE}.{namespace}:{_PORT}"


def _pod_namespace() -> str:
    try:
        namespace = _POD_NAMESPACE.read_text().strip()
        socket.getaddrinfo(f"{_SERVICE}.{namespace}", _PORT)
    except (OSError, UnicodeDecodeError):
        return ""
    return namespace


def _seconds(environment: dict[str, str], name: str, default: float) -> float:
    text = environment.get(name)
    if not text:
        return default
    try:
        seconds = float(text)
    except ValueError:
        raise ValueError(f"{name}={text!r} is not a number of seconds") from None
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{name}={text!r} must be more than 0 seconds")
    return seconds


def _placement(text: str) -> agent_pb2.Placement:
    if not text:
        return agent_pb2.Placement()
    try:
        return json_format.Parse(text, agent_pb2.Placement())
    except json_format.ParseError as error:
        raise ValueError(
            f"RUSTIC_PLACEMENT={text!r} is no placement: {error}; it is like "
            '{"required_labels": {"zone": "a"}, "movable": true}, see docs/capacity.md'
        ) from None


def _flag(environment: dict[str, str], name: str) -> bool:
    text = environment.get(name, "").lower()
    if text in ("", "0", "false", "no"):
        return False
    if text in ("1", "true", "yes"):
        return True
    raise ValueError(f"{name}={text!r} must be true or false")


def _choice(environment: dict[str, str], name: str, choices: tuple[str, ...], default: int) -> int:
    text = environment.get(name, "").lower()
    if not text:
        return default
    if text not in choices:
        raise ValueError(f"{name}={text!r} must be {' or '.join(choices)}")
    return choices.index(text)
