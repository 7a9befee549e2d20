"""How engine-svc is reached, and what is raised when it is not. No stack is needed."""

from collections.abc import Iterator
from concurrent import futures
import socket
import threading
from typing import Any

from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
import grpc
from grpc_status import rpc_status
import pytest

from rustic_ai.agent.v1 import agent_pb2
from rustic_ai.engine.v1 import engine_service_pb2 as pb
from rustic_ai.engine.v1.engine_service_pb2_grpc import EngineServiceServicer, add_EngineServiceServicer_to_server
from rustic_ai.k8s import client, errors
from rustic_ai.k8s.execution import K8sExecutionEngine
from rustic_ai.k8s.settings import EngineSettings

_UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "grpc_proxy", "no_proxy", "no_grpc_proxy")


class _Engine(EngineServiceServicer):
    """Knows one agent, after it was unavailable so many times."""

    def __init__(self) -> None:
        self.unavailable = 0
        self.calls = 0

    def GetAgent(self, request: pb.GetAgentRequest, context: grpc.ServicerContext) -> pb.GetAgentResponse:
        """The one agent."""
        self.calls += 1
        if self.unavailable:
            self.unavailable -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
        return pb.GetAgentResponse(agent=agent_pb2.Agent(phase=agent_pb2.AGENT_PHASE_RUNNING))


class _Served:
    """An engine on a port of its own."""

    def __init__(self) -> None:
        self.engine = _Engine()
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        add_EngineServiceServicer_to_server(self.engine, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        """Ends it."""
        self._server.stop(None).wait()


class _Proxy:
    """Takes connections, notes what they ask for, and leads nowhere."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self.asked.append(connection.recv(4096))
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")

    def stop(self) -> None:
        """Ends it."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def served() -> Iterator[_Served]:
    """An engine."""
    served = _Served()
    yield served
    served.stop()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Proxy]:
    """A proxy that the environment names, as behind a company's firewall."""
    proxy = _Proxy()
    for name in _PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy.url)
    yield proxy
    proxy.stop()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for connections that cannot come to be are short."""
    monkeypatch.setattr(client, "_CONNECT_PATIENCE", 0.2)


def _engine(address: str) -> K8sExecutionEngine:
    return K8sExecutionEngine("g", "o", engine_address=address)


def test_calls_go_direct_though_the_environment_names_a_proxy(served: _Served, proxy: _Proxy) -> None:
    """The engine is in the cluster, where the proxy does not lead."""
    assert _engine(served.address).is_agent_running("g", "a")
    assert (served.engine.calls, proxy.asked) == (1, [])


@pytest.mark.usefixtures("impatient")
def test_calls_go_through_the_proxy_when_asked_to(
    served: _Served, proxy: _Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RUSTIC_ENGINE_PROXY=true heeds what the environment says."""
    monkeypatch.setenv("RUSTIC_ENGINE_PROXY", "true")
    with pytest.raises(errors.EngineUnavailableError, match="RUSTIC_ENGINE_ADDRESS"):
        _engine(served.address).is_agent_running("g", "a")
    assert served.engine.calls == 0
    assert proxy.asked and all(asked.startswith(b"CONNECT " + served.address.encode()) for asked in proxy.asked)


def test_a_setting_of_the_proxy_that_cannot_be_understood_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A typo must not become a default."""
    monkeypatch.setenv("RUSTIC_ENGINE_PROXY", "perhaps")
    with pytest.raises(ValueError, match="RUSTIC_ENGINE_PROXY='perhaps'"):
        EngineSettings.read(None, None, None)


def _dead_port() -> Iterator[str]:
    # Bound and not listening: nobody else can get it meanwhile.
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def _silent() -> Iterator[str]:
    # Connections come to be, and nobody speaks.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def _no_such_name() -> Iterator[str]:
    yield "no-such-host.invalid:50051"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", [_dead_port, _silent, _no_such_name])
def test_an_address_that_cannot_be_reached_is_reported_with_the_setting_that_names_it(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One wait for a connection, no retries of the call, and a message that says what to do."""
    retried: list[Any] = []
    monkeypatch.setattr(client, "call", lambda *arguments: retried.append(arguments))
    for address in kind():
        with pytest.raises(errors.EngineUnavailableError) as caught:
            _engine(address).is_agent_running("g", "a")
        assert "RUSTIC_ENGINE_ADDRESS" in str(caught.value) and address in str(caught.value)
        assert (caught.value.reason, caught.value.agent) == ("ENGINE_UNREACHABLE", "g/a")
    assert retried == []


def test_an_address_that_cannot_be_reached_is_reported_within_five_seconds() -> None:
    """What the two waits add up to."""
    assert client._CONNECT_PATIENCE + client._OBSTACLE_PATIENCE < 5


def test_the_error_says_the_cause_where_it_is_known() -> None:
    """A port at which nobody listens refuses."""
    for address in _dead_port():
        with pytest.raises(client.Unreachable, match="(?i)refused"):
            client.connection(address).reach(0.5)


def test_an_engine_that_answers_that_it_is_unavailable_is_asked_again(served: _Served) -> None:
    """It is there: whatever it waits for may come."""
    served.engine.unavailable = 3
    assert _engine(served.address).is_agent_running("g", "a")
    assert served.engine.calls == 4


def test_the_restart_of_an_engine_that_was_reached_is_sat_out(
    served: _Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only an address that never led anywhere is given up at once."""
    engine = _engine(served.address)
    assert engine.is_agent_running("g", "a")
    connection = client.connection(served.address)
    monkeypatch.setattr(client.grpc, "channel_ready_future", lambda channel: pytest.fail("it was reached before"))
    served.stop()
    pauses: list[float] = []

    def goes_on(pause: float) -> None:
        pauses.append(pause)
        if len(pauses) == 5:
            raise InterruptedError

    monkeypatch.setattr(client.time, "sleep", goes_on)
    with pytest.raises(InterruptedError):
        engine.is_agent_running("g", "a")
    assert connection.reached and len(pauses) == 5


def _exhausted(reason: str) -> grpc.RpcError:
    """RESOURCE_EXHAUSTED as engine-svc says it, or without a reason as gRPC itself does."""
    status = status_pb2.Status(code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], message="no")
    if reason:
        packed = any_pb2.Any()
        packed.Pack(error_details_pb2.ErrorInfo(reason=reason, metadata={"host_id": "h-0"}))
        status.details.append(packed)
        packed = any_pb2.Any()
        packed.Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1, nanos=500_000_000)))
        status.details.append(packed)
    rich = rpc_status.to_status(status)
    error = grpc.RpcError()
    error.code = lambda: grpc.StatusCode.RESOURCE_EXHAUSTED
    error.details = lambda: "no"
    error.trailing_metadata = lambda: rich.trailing_metadata if reason else ()
    return error


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("AGENT_TOO_LARGE", errors.AgentTooLargeError),
        ("NO_ROOM", errors.NoRoomError),
        ("HOST_FULL", errors.NoRoomError),
        ("HOST_EXHAUSTED", errors.HostExhaustedError),
        ("REQUEST_TOO_LARGE", errors.InvalidAgentError),
        ("", errors.K8sEngineError),
        ("SOMETHING_ELSE", errors.K8sEngineError),
    ],
)
def test_only_a_lack_of_room_is_one(reason: str, expected: type) -> None:
    """A message that is too large has the same code and is something else."""
    error = errors.translate(_exhausted(reason), "create agent", "g/a", "e:1")
    assert type(error) is expected
    assert (error.reason, error.host, error.retry_after) == ((reason, "h-0", 1.5) if reason else ("", "", None))


def test_who_waits_for_room_may_wait_for_an_exhausted_host_as_well() -> None:
    """Both are over by themselves."""
    assert issubclass(errors.HostExhaustedError, errors.NoRoomError)


class _Watched(EngineServiceServicer):
    """Answers each watch with the next of its scripts: answers, and the code that ends it; notes what was asked for."""

    def __init__(self, *scripts: tuple[list[pb.WatchAgentsResponse], grpc.StatusCode]) -> None:
        self.asked: list[str] = []
        self._scripts = list(scripts)

    def WatchAgents(  # noqa: N802
        self, request: pb.WatchAgentsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchAgentsResponse]:
        """The next script."""
        self.asked.append(request.revision)
        answers, code = self._scripts.pop(0)
        yield from answers
        context.abort(code, "the script is over")


def _answer(phase: int, revision: str) -> pb.WatchAgentsResponse:
    return pb.WatchAgentsResponse(agent=agent_pb2.Agent(phase=phase), revision=revision)  # type: ignore[arg-type]


def _watch(engine: _Watched, timeout: float = 20.0) -> tuple[list[int], grpc.StatusCode]:
    """The phases that a watcher gets until it sees RUNNING or an error, and the error's code."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    add_EngineServiceServicer_to_server(engine, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    phases = []
    try:
        for answer in client.watch(client.stub(address), pb.WatchAgentsRequest(), timeout):
            phases.append(answer.agent.phase)
            if answer.agent.phase == agent_pb2.AGENT_PHASE_RUNNING:
                break
        return phases, grpc.StatusCode.OK
    except grpc.RpcError as error:
        return phases, error.code()
    finally:
        server.stop(None).wait()


def test_a_watch_that_breaks_goes_on_after_what_it_was_sent() -> None:
    """An engine that restarts sends nothing twice."""
    engine = _Watched(
        ([_answer(agent_pb2.AGENT_PHASE_PENDING, ""), _answer(agent_pb2.AGENT_PHASE_STARTING, "s/1-0")], _UNAVAILABLE),
        ([], _UNAVAILABLE),
        ([_answer(agent_pb2.AGENT_PHASE_RUNNING, "s/2-0")], _UNAVAILABLE),
    )
    phases = [agent_pb2.AGENT_PHASE_PENDING, agent_pb2.AGENT_PHASE_STARTING, agent_pb2.AGENT_PHASE_RUNNING]
    assert _watch(engine) == (phases, grpc.StatusCode.OK)
    assert engine.asked == ["", "s/1-0", "s/1-0"]


def test_a_watch_begins_anew_when_its_place_is_gone() -> None:
    """So it is when the registry was lost, or the watcher was away for long."""
    engine = _Watched(
        ([_answer(agent_pb2.AGENT_PHASE_STARTING, "s/1-0")], grpc.StatusCode.OUT_OF_RANGE),
        ([_answer(agent_pb2.AGENT_PHASE_RUNNING, "t/1-0")], _UNAVAILABLE),
    )
    phases = [agent_pb2.AGENT_PHASE_STARTING, agent_pb2.AGENT_PHASE_RUNNING]
    assert _watch(engine) == (phases, grpc.StatusCode.OK)
    assert engine.asked == ["", ""]


def test_a_watch_that_is_refused_is_not_tried_again() -> None:
    """What is wrong with it stays wrong."""
    engine = _Watched(([], grpc.StatusCode.INVALID_ARGUMENT))
    assert _watch(engine) == ([], grpc.StatusCode.INVALID_ARGUMENT)
    assert engine.asked == [""]
