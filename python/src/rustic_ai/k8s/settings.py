"""Settings of the engine: keyword arguments first, then environment variables, then defaults."""

from dataclasses import dataclass
import os

from rustic_ai.engine.v1 import engine_service_pb2 as pb


@dataclass(frozen=True)
class EngineSettings:
    """How to reach engine-svc and how long to wait for it.

    Attributes:
        address: `host:port` of engine-svc.
        create_timeout: Seconds an agent gets to become ready.
        call_timeout: Seconds every other call gets.
        detach: Whether `shutdown` leaves the agents running.
        profile: Runtime profile of the hosts in which agents run; empty: the hosts' own.
        pending: What happens to agents for which no host has room.
        proxy: Whether calls go through the proxy that the environment names.
    """

    address: str
    create_timeout: float
    call_timeout: float
    detach: bool
    profile: str
    pending: pb.PendingPolicy = pb.PENDING_POLICY_WAIT_FOR_ROOM
    proxy: bool = False

    @classmethod
    def read(
        cls,
        engine_address: str | None,
        namespace: str | None,
        detach: bool | None,
        profile: str | None = None,
        wait_for_any_host: bool | None = None,
    ) -> "EngineSettings":
        """Reads the settings.

        Raises:
            ValueError: An environment variable cannot be understood; the message names it.
        """
        namespace = namespace or os.environ.get("RUSTIC_K8S_NAMESPACE") or "default"
        address = engine_address or os.environ.get("RUSTIC_ENGINE_ADDRESS") or f"engine-svc.{namespace}:50051"
        if detach is None:
            detach = _flag("RUSTIC_DETACH_ON_SHUTDOWN")
        if wait_for_any_host is None:
            wait_for_any_host = _flag("RUSTIC_WAIT_FOR_ANY_HOST")
        return cls(
            address=address,
            create_timeout=_seconds("RUSTIC_CREATE_TIMEOUT", 120.0),
            call_timeout=_seconds("RUSTIC_CALL_TIMEOUT", 20.0),
            detach=detach,
            profile=profile or os.environ.get("RUSTIC_RUNTIME_PROFILE", ""),
            pending=(
                pb.PENDING_POLICY_WAIT_FOR_ANY_HOST if wait_for_any_host else pb.PENDING_POLICY_WAIT_FOR_ROOM
            ),
            proxy=_flag("RUSTIC_ENGINE_PROXY"),
        )


def _seconds(name: str, default: float) -> float:
    text = os.environ.get(name)
    if not text:
        return default
    try:
        seconds = float(text)
    except ValueError:
        raise ValueError(f"{name}={text!r} is not a number of seconds") from None
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{name}={text!r} must be more than 0 seconds")
    return seconds


def _flag(name: str) -> bool:
    text = os.environ.get(name, "").lower()
    if text in ("", "0", "false", "no"):
        return False
    if text in ("1", "true", "yes"):
        return True
    raise ValueError(f"{name}={text!r} must be true or false")
