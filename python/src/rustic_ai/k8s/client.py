"""One gRPC channel per engine address and process, and calls with deadlines and safe retries."""

from collections.abc import Callable
import logging
import os
import random
import threading
import time
from typing import Any

import grpc

from rustic_ai.engine.v1.engine_service_pb2_grpc import EngineServiceStub

logger = logging.getLogger(__name__)

# Every call of EngineService is idempotent (see its proto), so a call whose fate is unknown may be made again.
_RETRYABLE = frozenset({grpc.StatusCode.UNAVAILABLE})
_FIRST_DELAY = 0.05
_LONGEST_DELAY = 2.0
# Seconds of unavailability to sit out: longer than a rolling restart takes, shorter than anybody wants to wait for an
# address that is wrong.
_PATIENCE = 20.0
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

_lock = threading.Lock()
_stubs: dict[str, EngineServiceStub] = {}


def stub(address: str) -> EngineServiceStub:
    """The stub for an engine; its channel connects with the first call and is shared by all guilds."""
    with _lock:
        if address not in _stubs:
            _stubs[address] = EngineServiceStub(grpc.insecure_channel(address, options=_CHANNEL_OPTIONS))
        return _stubs[address]


def _forget_channels() -> None:
    # A channel does not survive a fork: the child makes its own.
    global _lock
    _lock = threading.Lock()
    _stubs.clear()


os.register_at_fork(after_in_child=_forget_channels)


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
