"""The guard around handlers, and what is around it, without a host."""

from collections.abc import Iterator
import json
import os
from pathlib import Path
import queue
import socket
import struct
import subprocess
import sys
import threading
from typing import Any

import pytest

from rustic_ai.core.messaging import AgentTag, Message, MessageConstants, Priority
from rustic_ai.core.utils import GemstoneGenerator
from rustic_ai.k8s.runtime.document import LaunchDocument, Skip
from rustic_ai.k8s.runtime.ending import Ending
from rustic_ai.k8s.runtime.handling import Guard, SetAside
from rustic_ai.k8s.runtime.host import HostSocket
from rustic_ai.k8s.runtime.sigterm import StoppedEarly
from rustic_ai.k8s.runtime.state import Phase, State, key
from rustic_ai.k8s.runtime.watch import Watch

_IDS = GemstoneGenerator(1)


def _message() -> Message:
    return Message(
        topics="t",
        sender=AgentTag(id="a", name="a"),
        format=MessageConstants.RAW_JSON_FORMAT,
        payload={"says": "something"},
        id_obj=_IDS.get_id(Priority.NORMAL),
    )


class Backend:
    """Keeps what is stored."""

    def __init__(self, fails: bool = False) -> None:
        """Stores nothing yet."""
        self.stored: list[tuple[str, str, Message]] = []
        self.fails = fails

    def store_message(self, namespace: str, topic: str, message: Message) -> None:
        """Stores a message, or fails."""
        if self.fails:
            raise ConnectionError("gone")
        self.stored.append((namespace, topic, message))


class Died(Exception):
    """What would have ended the process."""


class Noting(Ending):
    """Raises instead of ending the process."""

    def die(self, what: str, error: BaseException | None = None) -> Any:
        """Raises."""
        raise Died(what, type(error))


@pytest.fixture
def wire() -> Iterator[tuple[HostSocket, socket.socket]]:
    """A host's socket, both ends."""
    ours, theirs = socket.socketpair()
    yield HostSocket(theirs.detach()), ours
    ours.close()


def _page(path: Path) -> tuple[int, int, int, bytes]:
    """Sequence, phase, message id and topic, as the host reads them."""
    page = path.read_bytes()
    _, sequence, phase, message_id, length, _ = struct.unpack_from("@6Q", page)
    return sequence, phase, message_id, page[64 : 64 + length]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """The file that a host makes."""
    path = tmp_path / "1.state"
    path.write_bytes(bytes(4096))
    return path


def test_the_page_says_what_is_at_work_and_that_nothing_is(page: Path, wire: Any) -> None:
    guard = Guard(State(str(page)), [], wire[0], Noting(wire[0]))
    seen = []
    handle = guard.wrap(lambda message: seen.append(_page(page)), Backend(), "g:t", "c", "g")
    first, second = _message(), _message()
    handle(first)
    handle(second)
    assert [(phase, number, topic) for _, phase, number, topic in seen] == [
        (Phase.HANDLES, key("", message.id)[1], b"g:t") for message in (first, second)
    ]
    assert _page(page)[1] == Phase.WAITS
    sequences = [seen[0][0], seen[1][0], _page(page)[0]]
    assert sequences == sorted(set(sequences)) and not any(sequence % 2 for sequence in sequences)


def test_a_topic_longer_than_its_room_is_cut_alike_everywhere(page: Path, wire: Any) -> None:
    topic, message = "gg:" + "é" * 2000, _message()
    cut = key(topic, 0)[0]
    skip = [Skip(cut.decode(), message.id, 3, "why")]
    assert len(cut) == 1023, "a whole number of characters"
    guard = Guard(State(str(page)), skip, wire[0], Noting(wire[0]))
    guard.wrap(lambda message: pytest.fail("it is set aside"), Backend(), topic, "c", "g")(message)


def test_an_exception_passes_and_anything_else_ends_the_process(page: Path, wire: Any) -> None:
    guard = Guard(State(str(page)), [], wire[0], Noting(wire[0]))

    def handler(message: Message) -> None:
        raise raised

    handle = guard.wrap(handler, Backend(), "g:t", "c", "g")
    for raised in (ValueError("x"), StoppedEarly()):
        with pytest.raises(type(raised)):
            handle(_message())
    for raised in (SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseExceptionGroup("g", [SystemExit()])):
        with pytest.raises(Died) as died:
            handle(_message())
        assert died.value.args == ("a handler raised", type(raised))


def test_a_message_to_skip_goes_to_the_dead_letters_and_is_reported(page: Path, wire: Any) -> None:
    message, backend = _message(), Backend()
    guard = Guard(State(str(page)), [Skip("g:t", message.id, 3, "exit code 1")], wire[0], Noting(wire[0]))
    handle = guard.wrap(lambda message: pytest.fail("it is handled"), backend, "g:t", "c", "g")
    handle(message)
    [(namespace, topic, letter)] = backend.stored
    assert (namespace, topic, letter.topic_published_to) == ("g", "g:dead_letter_queue", "dead_letter_queue")
    assert letter.payload["original_message_id"] == message.id
    assert letter.payload["error_message"] == "the agent died 3 times over it: exit code 1"
    assert json.loads(wire[1].recv(4096)) == {"event": "set_aside", "topic": "g:t", "message_id": message.id}
    # The same id on another topic is another message.
    with pytest.raises(Died):
        guard.wrap(lambda message: pytest.fail("it is handled"), backend, "g:other", "c", "g")(message)
    # Who cannot publish leaves it to the backend, which treats it like one whose handler failed.
    with pytest.raises(SetAside):
        guard.wrap(lambda message: None, Backend(fails=True), "g:t", "c", "g")(message)
    # A dead letter that kills its reader makes no further letter.
    guard = Guard(State(""), [Skip("g:dead_letter_queue", message.id, 3, "x")], wire[0], Noting(wire[0]))
    guard.wrap(lambda message: pytest.fail("it is handled"), backend, "g:dead_letter_queue", "c", "g")(message)
    assert len(backend.stored) == 1


def test_after_stop_what_is_at_work_finishes_and_what_comes_is_parked(page: Path, wire: Any) -> None:
    guard = Guard(State(str(page)), [], wire[0], Noting(wire[0]))
    at_work, may_end, done = threading.Event(), threading.Event(), []

    def handler(message: Message) -> None:
        at_work.set()
        may_end.wait()
        # What a handler has delivered to itself belongs to its work.
        nested(message)
        done.append("first")

    nested = guard.wrap(lambda message: done.append("nested"), Backend(), "g:self", "c", "g")
    handle = guard.wrap(handler, Backend(), "g:t", "c", "g")
    worker = threading.Thread(target=handle, args=(_message(),), daemon=True)
    worker.start()
    at_work.wait()
    guard.stop()
    late = threading.Thread(target=handle, args=(_message(),), daemon=True)
    late.start()
    handle(_message())  # The main thread is never parked.
    may_end.set()
    guard.finish()
    assert done == ["nested", "first"]
    worker.join()
    assert late.is_alive(), "what came later is not handled, and does not count as handled"


def test_a_handler_that_waits_for_the_bus_is_not_at_work_and_is_left_when_the_agent_stops(page: Path, wire: Any) -> None:
    guard = Guard(State(str(page)), [], wire[0], Noting(wire[0]))
    waited, seen, done = threading.Event(), [], []

    def handler(message: Message) -> None:
        guard.wait(0.01)
        seen.append(_page(page)[1])
        waited.set()
        while True:
            guard.wait(3600)

    def handle() -> None:
        guard.wrap(handler, Backend(), "g:t", "c", "g")(_message())
        done.append("handled")

    worker = threading.Thread(target=handle, daemon=True)
    worker.start()
    waited.wait()
    assert seen == [Phase.HANDLES], "once the bus is back it is at work again"
    while _page(page)[1] != Phase.WAITS:
        pass
    guard.stop()
    guard.finish()
    assert not done and worker.is_alive(), "its message is for the next life"


def test_a_loop_has_come_round_when_it_waits_for_the_next_message(page: Path, wire: Any) -> None:
    state = State(str(page))
    guard = Guard(state, [], wire[0], Noting(wire[0]))
    handle = guard.wrap(lambda message: None, Backend(), "g:t", "c", "g")
    messages: queue.Queue[Message | None] = queue.Queue()
    saved, may_save = threading.Event(), threading.Event()

    def loop() -> None:
        while (message := messages.get()) is not None:
            handle(message)
            saved.set()
            may_save.wait()

    worker = threading.Thread(target=loop, daemon=True)
    worker.start()
    guard.watch(frozenset([worker]))
    messages.put(_message())
    saved.wait()
    guard.look()
    assert state.phase is Phase.RETURNS, "its position is not saved yet"
    may_save.set()
    while state.phase is not Phase.WAITS:
        guard.look()
    messages.put(None)
    worker.join()


class Manager:
    """Threads as rusticai-redis keeps them."""

    def __init__(self) -> None:
        """One worker and one listener, which end when they are asked to."""
        self.end_worker, self.end_listener = threading.Event(), threading.Event()
        self._client_workers = {"c": threading.Thread(target=self.end_worker.wait, daemon=True, name="worker")}
        self.redis_thread: threading.Thread | None = threading.Thread(target=self.end_listener.wait, daemon=True)
        self._client_workers["c"].start()
        self.redis_thread.start()


class RedisLike:
    """A backend with such threads."""

    def __init__(self) -> None:
        """Starts them."""
        self._pubsub_manager = Manager()


def test_a_dead_worker_is_reported_and_one_that_was_unsubscribed_is_not() -> None:
    backend = RedisLike()
    manager, watch = backend._pubsub_manager, Watch(backend, frozenset())
    assert watch.look() == "" and watch.loops() == frozenset(manager._client_workers.values())
    manager.end_worker.set()
    manager._client_workers["c"].join()
    assert watch.look() == "the thread 'worker', which handles messages, has ended"
    del manager._client_workers["c"]
    assert watch.look() == ""


def test_a_dead_listener_is_left_to_who_mends_it_and_reported_when_nobody_does(monkeypatch: pytest.MonkeyPatch) -> None:
    # Other tests of this process may have left threads of real backends, which look as if they mended this one.
    left, threads = set(threading.enumerate()), threading.enumerate
    monkeypatch.setattr(threading, "enumerate", lambda: [thread for thread in threads() if thread not in left])
    backend = RedisLike()
    manager, watch = backend._pubsub_manager, Watch(backend, frozenset())
    manager.end_listener.set()
    assert manager.redis_thread is not None
    manager.redis_thread.join()
    mended = threading.Event()
    mender = threading.Thread(target=mended.wait, name="redis-pubsub-reconnect", daemon=True)
    mender.start()
    assert [watch.look() for _ in range(5)] == [""] * 5
    mended.set()
    mender.join()
    assert watch.look() == ""
    assert watch.look() == "nothing listens for messages any more, and nobody mends it"


def test_threads_that_messaging_was_built_with_are_watched_for_other_backends() -> None:
    may_end = threading.Event()
    thread = threading.Thread(target=may_end.wait, name="bus", daemon=True)
    thread.start()
    watch = Watch(object(), frozenset([thread]))
    assert watch.look() == ""
    may_end.set()
    thread.join()
    assert watch.look() == "the thread 'bus' of the messaging backend has ended"


def test_a_backend_with_a_manager_of_another_kind_is_watched_by_its_threads_but_not_by_those_that_care() -> None:
    class NatsLike:
        _pubsub_manager = object()

    may_end, cared = threading.Event(), threading.Event()
    loop = threading.Thread(target=may_end.wait, name="nats-event-loop", daemon=True)
    monitor = threading.Thread(target=cared.wait, name="nats-pubsub-health-monitor", daemon=True)
    loop.start()
    monitor.start()
    watch = Watch(NatsLike(), frozenset([loop, monitor]))
    cared.set()
    monitor.join()
    assert [watch.look() for _ in range(5)] == [""] * 5
    may_end.set()
    loop.join()
    assert watch.look() == "the thread 'nats-event-loop' of the messaging backend has ended"


def test_a_document_names_what_to_skip() -> None:
    plain = {name: "" for name in LaunchDocument.__dataclass_fields__ if name not in ("state", "watched", "skip", "share")}
    old = LaunchDocument.parse(json.dumps(plain | {"version": 1}).encode())
    assert (old.state, old.watched, old.skip, old.share) == ("", False, (), 0)
    skip = {"topic": "g:t", "message_id": (1 << 64) - 1, "deaths": 3, "reason": "x"}
    new = LaunchDocument.parse(json.dumps(plain | {"version": 1, "state": "/p", "skip": [skip]}).encode())
    assert (new.state, new.skip) == ("/p", (Skip("g:t", (1 << 64) - 1, 3, "x"),))


_ENDS = """
import atexit, os, socket, sys, threading, time
from rustic_ai.k8s.runtime import ending
from rustic_ai.k8s.runtime.host import HostSocket
host = HostSocket(int(sys.argv[1]))
atexit.register(print, "atexit ran")
if sys.argv[2] == "hangs":
    atexit.register(time.sleep, 1000)
def die():
    try:
        raise SystemExit(3)
    except SystemExit as error:
        ending.Ending(host).die("a handler raised", error)
threading.Thread(target=die).start()
threading.Event().wait()
"""


@pytest.mark.parametrize("way", ["ends", "hangs"])
def test_a_process_that_dies_says_so_to_its_host_and_runs_what_is_registered_for_a_bounded_time(way: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        os.set_inheritable(theirs.fileno(), True)
        command = [sys.executable, "-c", _ENDS, str(theirs.fileno()), way]
        done = subprocess.run(command, capture_output=True, text=True, close_fds=False, timeout=60)
        theirs.close()
        with ours.makefile() as sent:
            assert json.loads(sent.read()) == {"event": "ended", "reason": "a handler raised SystemExit: 3"}
    assert done.returncode == 70
    assert ("atexit ran" in done.stdout) == (way == "ends")
    assert ("were cut" in done.stderr) == (way == "hangs")
