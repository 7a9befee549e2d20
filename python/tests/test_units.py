"""Parts that need no stack."""

import json
from pathlib import Path
import socket
import subprocess
import sys

import grpc
import pytest

from rustic_ai.core.messaging import RetryingClient, SimpleClient
from rustic_ai.k8s import client
from rustic_ai.k8s.execution import K8sExecutionEngine
from rustic_ai.k8s.runtime.agent import StartFailure, client_class
from rustic_ai.k8s.runtime.document import LaunchDocument

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "environment", "address"),
    [
        ({}, {}, "engine-svc.rustic-ai:50051"),
        ({"k8s_namespace": "prod"}, {}, "engine-svc.prod:50051"),
        ({}, {"RUSTIC_K8S_NAMESPACE": "test"}, "engine-svc.test:50051"),
        ({}, {"RUSTIC_ENGINE_ADDRESS": "e:1"}, "e:1"),
        ({"engine_address": "f:2"}, {"RUSTIC_ENGINE_ADDRESS": "e:1"}, "f:2"),
    ],
)
def test_the_address_comes_from_arguments_then_environment_then_defaults(
    monkeypatch: pytest.MonkeyPatch, arguments: dict, environment: dict, address: str
) -> None:
    """The nearest setting wins."""
    monkeypatch.delenv("RUSTIC_ENGINE_ADDRESS", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert K8sExecutionEngine("g", "o", **arguments).engine_address == address


@pytest.mark.parametrize("name", ["redis_url", "agent_host_service_name"])
def test_what_has_no_effect_warns(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Nothing is accepted and ignored in silence."""
    monkeypatch.delenv("RUSTIC_ENGINE_ADDRESS", raising=False)
    with pytest.warns(UserWarning, match=f"{name} has no effect"):
        assert K8sExecutionEngine("g", "o", **{name: "x"}).engine_address == "engine-svc.rustic-ai:50051"


def test_a_setting_that_cannot_be_understood_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A typo must not become a default."""
    monkeypatch.setenv("RUSTIC_CREATE_TIMEOUT", "soon")
    with pytest.raises(ValueError, match="RUSTIC_CREATE_TIMEOUT='soon'"):
        K8sExecutionEngine("g", "o")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("", SimpleClient),
        ("SimpleClient", SimpleClient),
        ("rustic_ai.core.messaging.RetryingClient", RetryingClient),
        (RetryingClient.get_qualified_class_name(), RetryingClient),
    ],
)
def test_clients_are_found_by_name(name: str, found: type) -> None:
    """Bare, exported and qualified names all work."""
    assert client_class(name) is found


@pytest.mark.parametrize("name", ["Message", "os.system", "my.own.SimpleClient", "Client2"])
def test_what_is_no_exported_client_is_refused(name: str) -> None:
    """Neither other exports nor classes of the same name elsewhere."""
    with pytest.raises(StartFailure, match="choose one of .*SimpleClient") as caught:
        client_class(name)
    assert caught.value.stage == "client_type"


def test_a_document_of_another_version_is_refused() -> None:
    """Both sides must be of one release."""
    with pytest.raises(ValueError, match="understands 1"):
        LaunchDocument.parse(b'{"version": 2}')
    with pytest.raises(ValueError):
        LaunchDocument.parse(b"[]")


class _Flaky:
    """A method that fails so many times."""

    def __init__(self, failures: int, code: grpc.StatusCode) -> None:
        self.left, self.calls, self.code = failures, 0, code

    def __call__(self, request: object, timeout: float, metadata: object) -> str:
        self.calls += 1
        if self.left == 0:
            return "done"
        self.left -= 1
        error = grpc.RpcError()
        error.code = lambda: self.code
        error.details = lambda: "no"
        raise error


def test_only_what_is_safe_to_retry_is_retried() -> None:
    """UNAVAILABLE is tried again while there is time; anything else is not."""
    flaky = _Flaky(2, grpc.StatusCode.UNAVAILABLE)
    assert client.call(flaky, None, timeout=10) == "done"
    dead = _Flaky(100, grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(grpc.RpcError):
        client.call(dead, None, timeout=0.5)
    assert 2 < dead.calls < 100
    wrong = _Flaky(100, grpc.StatusCode.FAILED_PRECONDITION)
    with pytest.raises(grpc.RpcError):
        client.call(wrong, None, timeout=10)
    assert wrong.calls == 1


def test_the_runtime_reports_before_it_ends() -> None:
    """What cannot be imported comes back over the socket as one line of JSON."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen([sys.executable, "-m", "rustic_ai.k8s.runtime"], stdin=theirs)
    theirs.close()
    document = dict.fromkeys(LaunchDocument.__dataclass_fields__, "")
    document |= {"version": 1, "epoch": 1, "machine_id": 1, "share": 0}
    document |= {"agent_spec": '{"class_name": "no.such.Agent"}'}
    ours.sendall(json.dumps(document).encode())
    ours.shutdown(socket.SHUT_WR)
    report = json.loads(ours.makefile().readline())
    assert (report["event"], report["stage"]) == ("failed", "import")
    assert "No module named 'no'" in report["error"] and "Traceback" in report["traceback"]
    assert process.wait(10) == 1


def test_the_stubs_are_those_of_the_protos(tmp_path: Path) -> None:
    """`make protos` was run after the last change."""
    protos = sorted(str(p.relative_to(ROOT / "proto")) for p in (ROOT / "proto/rustic_ai").rglob("*.proto"))
    arguments = ["-I", str(ROOT / "proto"), f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}", *protos]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], check=True)
    generated = [p for p in tmp_path.rglob("*.py") if p.name != "agent_pb2_grpc.py"]
    assert len(generated) == 5
    for path in generated:
        committed = ROOT / "python/src" / path.relative_to(tmp_path)
        assert committed.read_text() == path.read_text(), f"{committed} is stale; run make protos"
