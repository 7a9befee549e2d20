"""Spans of an agent, under the trace of its launch.

Rustic AI makes a span for each handler and each message that it sends; where nobody takes them they are dropped. With an OTLP
endpoint in the agent's environment they are exported. A span belongs to the trace that its message names, and else to the launch's,
which is in TRACEPARENT. Without an endpoint nothing of the SDK is even imported.

The exporter has a thread: it is started in the agent's own process, never in a zygote. It is given time to send what it has when
the process ends in order, as a function registered with `atexit`.
"""

from collections.abc import Callable, Mapping
import importlib
import importlib.util
import logging
import os
from typing import Any
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTERS = {
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http.trace_exporter",
}
_SDK = ("opentelemetry.sdk.resources", "opentelemetry.sdk.trace", "opentelemetry.sdk.trace.export")
_GRPC_PORT = 4317
_PARENT = ("TRACEPARENT", "TRACESTATE")
_SERVICE = "rustic-agent"

# What spans of this process hang under that have no other parent; None: traces are off.
_launch: Any = None


def modules(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Modules that an agent with this environment needs for its spans; none when traces are off, or they are not installed."""
    exporter = _EXPORTERS.get(_protocol(environment), "") if _is_on(environment) else ""
    return (*_SDK, exporter) if exporter and all(map(_is_installed, (*_SDK, exporter))) else ()


def begin(guild_id: str, agent_id: str) -> None:
    """Has spans of this process exported from now on, if its environment says where to.

    Args:
        guild_id: Whose spans they are.
        agent_id: Likewise.
    """
    global _launch
    if not _is_on(os.environ):
        return
    needed = modules(os.environ)
    if not needed:
        logger.warning(
            "no traces: %s is not to be had here; install rusticai-k8s[otel], or set OTEL_EXPORTER_OTLP_PROTOCOL to one of %s",
            _protocol(os.environ),
            ", ".join(_EXPORTERS),
        )
        return
    from opentelemetry import context, trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    resources, sdk, export, exporter = (importlib.import_module(name) for name in needed)
    about = {"rustic.guild_id": guild_id, "rustic.agent_id": agent_id}
    if "OTEL_SERVICE_NAME" not in os.environ and "service.name=" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        about["service.name"] = _SERVICE
    provider = sdk.TracerProvider(resource=resources.Resource.create(about))
    provider.add_span_processor(export.BatchSpanProcessor(exporter.OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    carrier = {name.lower(): os.environ[name] for name in _PARENT if name in os.environ}
    _launch = TraceContextTextMapPropagator().extract(carrier)
    # Of the main thread, in which the agent is built.
    context.attach(_launch)


def under_launch[**P, T](work: Callable[P, T]) -> Callable[P, T]:
    """Work in some thread whose spans belong to the launch, unless they have another parent."""
    if _launch is None:
        return work
    from opentelemetry import context

    def traced(*arguments: P.args, **named: P.kwargs) -> T:
        token = context.attach(_launch)
        try:
            return work(*arguments, **named)
        finally:
            context.detach(token)

    return traced


def _is_on(environment: Mapping[str, str]) -> bool:
    disabled = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return not disabled and environment.get("OTEL_TRACES_EXPORTER", "otlp") == "otlp" and bool(_first(_ENDPOINTS, environment))


def _protocol(environment: Mapping[str, str]) -> str:
    """As it is set; else what the endpoint's port is for."""
    named = _first(_PROTOCOLS, environment)
    if named:
        return named
    try:
        port = urlsplit(_first(_ENDPOINTS, environment)).port
    except ValueError:
        port = None
    return "grpc" if port == _GRPC_PORT else "http/protobuf"


def _first(names: tuple[str, ...], environment: Mapping[str, str]) -> str:
    return next((environment[name] for name in names if environment.get(name)), "")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False
