"""An agent whose message bus cannot be used says so within 5 s, with the address and the cause."""

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import queue
import signal
import socket
import threading
import time
from typing import Any

import certificates
from lives import Life, nats_messaging, redis_messaging
import pytest
from servers import NatsServer, RedisServer, free_port

from rustic_ai.core.messaging import MessagingConfig
from rustic_ai.k8s.runtime.reach import Reach

_CLASS = "bus_agents.Answerer"


def _refused(messaging: dict[str, Any], *expected: str) -> None:
    life = Life(_CLASS, messaging)
    life.__exit__()
    report = life.report
    assert report.get("event") == "failed", report
    assert report["stage"] == "initialize"
    for words in expected:
        assert words in report["error"], report["error"]


@contextmanager
def _silent() -> Iterator[int]:
    """A port that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def _deaf() -> Iterator[int]:
    """A port that takes no connection any more, as if packets were dropped."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            yield port


@pytest.mark.parametrize("kind", [redis_messaging, nats_messaging])
def test_nobody_listens(kind: Any) -> None:
    port = free_port()
    _refused(kind(port), f"127.0.0.1:{port}", "Connection refused")


@pytest.mark.parametrize("kind", [redis_messaging, nats_messaging])
def test_the_name_is_unknown(kind: Any) -> None:
    _refused(kind(4711, host="no-such-host.invalid"), "no-such-host.invalid:4711", "not known")


@pytest.mark.parametrize("kind", [redis_messaging, nats_messaging])
def test_who_listens_does_not_answer(kind: Any) -> None:
    with _silent() as port:
        _refused(kind(port), f"127.0.0.1:{port}", "TLS")


@pytest.mark.parametrize("kind", [redis_messaging, nats_messaging])
def test_packets_are_dropped(kind: Any) -> None:
    with _deaf() as port:
        _refused(kind(port), f"127.0.0.1:{port}")


def test_a_redis_refuses_the_password(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--requirepass", "right") as server:
        _refused(redis_messaging(server.port, password="wrong"), f"127.0.0.1:{server.port}", "invalid username-password")
        _refused(redis_messaging(server.port), f"127.0.0.1:{server.port}", "it demands a password")


def test_a_redis_that_expects_tls_is_asked_without_and_the_other_way_round(tmp_path: Path) -> None:
    authority, certificate, key = certificates.make(tmp_path)
    port = free_port()
    tls = ["--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    with RedisServer(tmp_path, *tls, "--tls-ca-cert-file", str(authority), "--tls-auth-clients", "no") as server:
        _refused(redis_messaging(port), f"redis://127.0.0.1:{port}", "TLS")
        _refused(redis_messaging(server.port, ssl=True, ssl_ca_certs=str(authority)), f"127.0.0.1:{server.port}")
        _refused(redis_messaging(port, ssl=True), f"rediss://127.0.0.1:{port}", "certificate verify failed")


def test_a_cluster_cannot_be_reached() -> None:
    port = free_port()
    _refused(redis_messaging(port, is_cluster=True), f"127.0.0.1:{port}", "Connection refused")


def test_a_redis_that_is_stopped_answers_nobody(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        os.kill(server.pid, signal.SIGSTOP)
        _refused(redis_messaging(server.port), f"127.0.0.1:{server.port}")


def test_a_nats_refuses_the_password(tmp_path: Path) -> None:
    with NatsServer(tmp_path, "--user", "u", "--pass", "right") as server:
        _refused(nats_messaging(server.port, user="u", password="wrong"), f"127.0.0.1:{server.port}", "Authorization")
        secret = {"servers": [f"nats://u:wrong@127.0.0.1:{server.port}"]}
        life = Life(_CLASS, nats_messaging(server.port, **secret))
        life.__exit__()
        assert "wrong" not in life.report["error"] and "Authorization" in life.report["error"], life.report


def test_a_nats_that_expects_tls_is_asked_without(tmp_path: Path) -> None:
    _, certificate, key = certificates.make(tmp_path)
    with NatsServer(tmp_path, "--tls", "--tlscert", str(certificate), "--tlskey", str(key)) as server:
        _refused(nats_messaging(server.port), f"127.0.0.1:{server.port}")


@pytest.mark.parametrize("kind", [redis_messaging, nats_messaging])
def test_whoever_waits_learns_why_within_five_seconds(kind: Any) -> None:
    with _silent() as silent, _deaf() as deaf:
        for port in (silent, deaf, free_port()):
            reports: queue.Queue[str] = queue.Queue()
            reach = Reach(MessagingConfig(**kind(port)), reports.put)
            reach.begin()
            assert f"127.0.0.1:{port}" in reports.get(timeout=5.0)
            assert not reach.end(), "it is reported once"


def test_who_has_an_answer_in_time_is_left_in_peace() -> None:
    reach = Reach(MessagingConfig(**redis_messaging(free_port())), lambda why: pytest.fail(why))
    before = threading.active_count()
    reach.begin()
    assert reach.end()
    while threading.active_count() > before:
        time.sleep(0.01)


def test_an_agent_starts_when_its_bus_comes_a_moment_later(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    with server:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            pid = os.fork()
            if pid == 0:
                # As soon as the agent waits.
                signal.sigtimedwait([], 2.5)
                os.kill(server.pid, signal.SIGCONT)
                os._exit(0)
            with Life(_CLASS, redis_messaging(server.port)) as life:
                assert life.stop() == 0
        finally:
            os.waitpid(pid, 0)
