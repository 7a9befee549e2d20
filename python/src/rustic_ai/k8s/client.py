"""One gRPC channel per engine address and process, and calls with deadlines and safe retries."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
import logging
import os
import random
import threading
import time
from typing import Any

import grpc

from rustic_ai.engine.v1 import engine_service_pb2 as pb
from rustic_ai.engine.v1.engine_service_pb2_grpc import EngineServiceStub

logger = logging.getLogger(__name__)

# Every call of EngineService is idempotent (see its proto), so a call whose fate is unknown may be made again.
_RETRYABLE = frozenset({grpc.StatusCode.UNAVAILABLE})
_FIRST_DELAY = 0.05
_LONGEST_DELAY = 2.0
# Seconds of unavailability to sit out: longer than a rolling restart takes.
_PATIENCE = 20.0
# Seconds for the first connection to an address, which may be wrong; together with those to learn what is wrong less than 5.
_CONNECT_PATIENCE = 4.0
_OBSTACLE_PATIENCE = 0.5
_CHANNEL_OPTIONS = [
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A service that was just restarted must be found again at once.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Retries are ours: they follow the status code and the caller's deadline.
    ("grpc.enable_retries", 0),
]



class Unreachable(Exception):
    """No connection to the engine's address came to be; the text says why."""


@dataclass
class Connection:
    """One channel to an engine, shared by all guilds of this process.

    Attributes:
        channel: The channel; connects when it is first needed.
        stub: The engine's methods over it.
        reached: Whether it was connected once.
    """

    channel: grpc.Channel
    stub: EngineServiceStub
    reached: bool = False

    def reach(self, timeout: float) -> None:
        """Waits for the first connection. One that was there before is left to `call`, which sits out a restart.

        Args:
            timeout: Seconds that the caller has; no more than a few are used.

        Raises:
            Unreachable: There was none: the name cannot be resolved, nobody listens, or nobody who speaks gRPC.
        """
        if self.reached:
            return
        ready = grpc.channel_ready_future(self.channel)
        try:
            ready.result(timeout=min(timeout, _CONNECT_PATIENCE))
        except grpc.FutureTimeoutError:
            ready.cancel()
            raise Unreachable(self._obstacle()) from None
        self.reached = True

    def _obstacle(self) -> str:
        """What gRPC says of a channel that does not connect: only a call gets that answer."""
        try:
            self.stub.GetAgent(pb.GetAgentRequest(), timeout=_OBSTACLE_PATIENCE)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
                return error.details() or error.code().name
        return f"no connection within {_CONNECT_PATIENCE:.0f} s"


_lock = threading.Lock()
_connections: dict[tuple[str, bool], Connection] = {}


def connection(address: str, proxy: bool = False) -> Connection:
    """The connection to an engine.

    Args:
        address: `host:port` of engine-svc.
        proxy: Whether to go through the proxy that the environment names. An engine is in the same cluster or network as its
            callers as a rule, where a proxy for the outside world does not lead.
    """
    with _lock:
        if (address, proxy) not in _connections:
            options = [*_CHANNEL_OPTIONS, ("grpc.enable_http_proxy", int(proxy))]
            channel = grpc.insecure_channel(address, options=options)
            _connections[address, proxy] = Connection(channel, EngineServiceStub(channel))
        return _connections[address, proxy]


def stub(address: str, proxy: bool = False) -> EngineServiceStub:
    """The stub of `connection`."""
    return connection(address, proxy).stub


def _forget_connections() -> None:
    # A channel does not survive a fork: the child makes its own.
    global _lock
    _lock = threading.Lock()
    _connections.clear()


os.register_at_fork(after_in_child=_forget_connections)


def call(method: Callable[..., Any], request: Any, timeout: float) -> Any:
    """Makes a call and retries it while that is safe and there is time.

    Args:
        method: Method of the stub.
        request: Its request.
        timeout: Seconds for all tries together.

    Raises:
        grpc.RpcError: The last error.
    """
    began = time.monotonic()
    deadline, give_up = began + timeout, began + min(timeout, _PATIENCE)
    delay = _FIRST_DELAY
    while True:
        try:
            return method(request, timeout=max(0.001, deadline - time.monotonic()), metadata=_trace_context())
        except grpc.RpcError as error:
            pause = delay * random.uniform(0.5, 1.0)
            if error.code() not in _RETRYABLE or time.monotonic() + pause >= give_up:
                raise
            logger.debug("call failed (%s), trying again in %.3f s", error.details(), pause)
            time.sleep(pause)
            delay = min(delay * 2, _LONGEST_DELAY)


def watch(stub: EngineServiceStub, request: pb.WatchAgentsRequest, timeout: float) -> Iterator[pb.WatchAgentsResponse]:
    """Follows agents. A stream that breaks is resumed where it was; one that cannot be begins anew, with every agent that there is.

    Args:
        stub: The engine's methods.
        request: Whom to watch; its revision is kept up to date.
        timeout: Seconds to follow them.

    Yields:
        The engine's answers, as they come.

    Raises:
        grpc.RpcError: The last error; DEADLINE_EXCEEDED when the time is over.
    """
    deadline, delay = time.monotonic() + timeout, _FIRST_DELAY
    while True:
        answers = stub.WatchAgents(request, timeout=max(0.001, deadline - time.monotonic()), metadata=_trace_context())
        try:
            for answer in answers:
                delay = _FIRST_DELAY
                request.revision = answer.revision or request.revision
                yield answer
        except grpc.RpcError as error:
            pause = delay * random.uniform(0.5, 1.0)
            resumes = error.code() in _RETRYABLE
            if not (resumes or error.code() == grpc.StatusCode.OUT_OF_RANGE) or time.monotonic() + pause >= deadline:
                raise
            if not resumes:
                request.revision = ""
            logger.debug("watch ended (%s), trying again in %.3f s", error.details(), pause)
            time.sleep(pause)
            delay = min(delay * 2, _LONGEST_DELAY)
        finally:
            # Also when nobody wants the rest.
            answers.cancel()


def _trace_context() -> list[tuple[str, str]]:
    """W3C trace context of the caller: OpenTelemetry's current span where that is in use, else the environment's."""
    carrier: dict[str, str] = {}
    try:
        from opentelemetry import propagate
    except ImportError:
        pass
    else:
        propagate.inject(carrier)
    if "traceparent" not in carrier and "TRACEPARENT" in os.environ:
        carrier["traceparent"] = os.environ["TRACEPARENT"]
    return list(carrier.items())
