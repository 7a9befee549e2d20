"""Spans of an agent reach a collector, under the trace of its launch; without one nothing is imported for them."""

from collections.abc import Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
import queue
import subprocess
import sys
import threading
from typing import Any

import grpc
from lives import GUILD, Life, redis_messaging
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc
import pytest
from servers import RedisServer
from test_reconnect import Asker, question

from rustic_ai.k8s.runtime import tracing

_CLASS = "bus_agents.Answerer"
_TRACE, _SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
_PARENT = f"00-{_TRACE}-{_SPAN}-01"


class Collector:
    """Takes spans."""

    def __init__(self) -> None:
        """Has none."""
        self._arrived: queue.Queue[pb.ExportTraceServiceRequest] = queue.Queue()

    def take(self, request: pb.ExportTraceServiceRequest) -> pb.ExportTraceServiceResponse:
        """Keeps what was sent."""
        self._arrived.put(request)
        return pb.ExportTraceServiceResponse()

    def spans(self) -> dict[str, tuple[Any, dict[str, str]]]:
        """What has arrived: spans by their names, each with what it is of."""
        found = {}
        while not self._arrived.empty():
            for of in self._arrived.get().resource_spans:
                about = {each.key: each.value.string_value for each in of.resource.attributes}
                found |= {span.name: (span, about) for scope in of.scope_spans for span in scope.spans}
        return found


@pytest.fixture(params=["http/protobuf", "grpc"])
def collecting(request: pytest.FixtureRequest) -> Iterator[tuple[Collector, dict[str, str]]]:
    """A collector, and variables that say where it is."""
    collector = Collector()
    if request.param == "grpc":

        class Service(pb_grpc.TraceServiceServicer):
            def Export(self, request: Any, context: Any) -> Any:
                return collector.take(request)

        server = grpc.server(futures.ThreadPoolExecutor(2))
        pb_grpc.add_TraceServiceServicer_to_server(Service(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
    else:

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    raise AssertionError("nobody asked for that")
                collector.take(pb.ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=web.serve_forever, daemon=True).start()
        port = web.server_port
    protocol = {"OTEL_EXPORTER_OTLP_PROTOCOL": request.param}
    yield collector, {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", **protocol}
    if request.param == "grpc":
        server.stop(0)
    else:
        web.shutdown()


def test_a_handlers_span_arrives_under_the_launchs_trace_although_the_agent_is_stopped_right_after(
    tmp_path: Path, collecting: tuple[Collector, dict[str, str]]
) -> None:
    collector, environment = collecting
    with RedisServer(tmp_path) as server:
        asker = Asker(server)
        with Life(_CLASS, redis_messaging(server.port), environment=environment | {"TRACEPARENT": _PARENT}) as life:
            asker.ask(1)
            while not asker.answers():
                pass
            assert life.stop() == 0
    spans = collector.spans()
    handler, about = spans["rustic_ai:process_message"]
    assert (handler.trace_id.hex(), handler.parent_span_id.hex()) == (_TRACE, _SPAN)
    assert (about["rustic.guild_id"], about["rustic.agent_id"], about["service.name"]) == (GUILD, "a", "rustic-agent")
    sending, _ = spans["rustic_ai:send_message"]
    assert (sending.trace_id.hex(), sending.parent_span_id) == (_TRACE, handler.span_id)


def test_a_message_that_belongs_to_a_trace_stays_in_it(
    tmp_path: Path, collecting: tuple[Collector, dict[str, str]]
) -> None:
    collector, environment = collecting
    other = "11111111111111111111111111111111"
    with RedisServer(tmp_path) as server:
        asker = Asker(server)
        with Life(_CLASS, redis_messaging(server.port), environment=environment | {"TRACEPARENT": _PARENT}) as life:
            message = question(1)
            message.traceparent = f"00-{other}-{_SPAN}-01"
            asker.store(message)
            while not asker.answers():
                pass
            assert life.stop() == 0
    assert collector.spans()["rustic_ai:process_message"][0].trace_id.hex() == other


def test_an_agent_whose_collector_is_away_works_and_ends(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        asker = Asker(server)
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "TRACEPARENT": _PARENT}
        with Life(_CLASS, redis_messaging(server.port), environment=environment) as life:
            asker.ask(1)
            asker.expect_one_answer_each()
            assert life.stop() == 0


_OFF = """
import os, sys, threading
from rustic_ai.k8s.runtime import tracing, handling
from rustic_ai.k8s.runtime.life import run
import rustic_ai.k8s.runtime.service
tracing.begin("g", "a")
assert tracing.under_launch(print) is print
assert not [name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))]
assert threading.active_count() == 1
print("free")
"""


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4318", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4318", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_traces_that_are_off_are_free(environment: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", _OFF], capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout.strip() == "free", done.stderr


def test_the_protocol_is_the_one_that_is_set_or_that_the_port_is_for() -> None:
    def exporter(endpoint: str, **more: str) -> str:
        return tracing.modules({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **more})[-1].split(".")[4]

    assert exporter("http://h:4317") == "grpc" and exporter("http://h:4318") == exporter("http://h") == "http"
    assert exporter("http://h:4318", OTEL_EXPORTER_OTLP_PROTOCOL="grpc") == "grpc"
    assert tracing.modules({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_EXPORTER_OTLP_PROTOCOL": "smoke"}) == ()
    assert tracing.modules({}) == ()
