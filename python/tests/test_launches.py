"""What becomes of launches that were accepted and do not run yet. No stack is needed."""

from collections.abc import Callable, Iterator
import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from conftest import wait_until
from rustic_ai.agent.v1 import agent_pb2
from rustic_ai.core.messaging import Message, MessagingConfig
from rustic_ai.engine.v1 import engine_service_pb2 as pb
from rustic_ai.k8s.launches import Launch, Launches

LOG = "rustic_ai.k8s.launches"


class _Bus:
    """What is published."""

    def __init__(self) -> None:
        self.published: list[tuple[str, str, Message]] = []

    def store_message(self, namespace: str, topic: str, message: Message) -> None:
        """Takes a message."""
        self.published.append((namespace, topic, message))

    def cleanup(self) -> None:
        """Nothing to do."""


class _Answers:
    """An answer of WatchAgents that goes on until somebody has had enough."""

    def __init__(self, answers: list[pb.WatchAgentsResponse]) -> None:
        self._answers, self._cancelled = answers, threading.Event()

    def __iter__(self) -> Iterator[pb.WatchAgentsResponse]:
        yield from self._answers
        self._cancelled.wait()

    def cancel(self) -> None:
        """Ends it."""
        self._cancelled.set()


def _agent(agent_id: str, phase: agent_pb2.AgentPhase, epoch: int = 1, message: str = "") -> pb.WatchAgentsResponse:
    agent = agent_pb2.Agent(agent_id=agent_id, phase=phase, epoch=epoch, message=message)
    return pb.WatchAgentsResponse(agent=agent)


_BOOKMARK = pb.WatchAgentsResponse(bookmark=pb.Bookmark())


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> _Bus:
    """The bus of every guild."""
    bus = _Bus()
    monkeypatch.setattr(MessagingConfig, "get_storage", lambda _self: bus)
    return bus


@pytest.fixture
def following() -> Iterator[Callable[..., Launches]]:
    """Launches of a guild whose watch gets certain answers."""
    made: list[Launches] = []

    def make(*answers: pb.WatchAgentsResponse, reports: bool = True) -> Launches:
        def watch(request: pb.WatchAgentsRequest, **_options: Any) -> _Answers:
            assert (request.organization_id, request.guild_id) == ("o", "g")
            return _Answers(list(answers))

        connection = SimpleNamespace(stub=SimpleNamespace(WatchAgents=watch))
        launches = Launches("o", "g", lambda: connection, reports)
        made.append(launches)
        return launches

    yield make
    for launches in made:
        launches.end()


def _launch(agent_id: str) -> Launch:
    return Launch(agent_id, agent_id.title(), MessagingConfig(backend_module="m", backend_class="C", backend_config={}))


def test_one_that_fails_later_is_logged_and_reported_to_its_guild(
    following: Callable[..., Launches], bus: _Bus, caplog: pytest.LogCaptureFixture
) -> None:
    """As a heartbeat in the agent's own name, where the guild's manager hears it."""
    restarting, failed = agent_pb2.AGENT_PHASE_RESTARTING, agent_pb2.AGENT_PHASE_FAILED
    launches = following(_agent("a", restarting), _BOOKMARK, _agent("a", failed, message="its database is not up"))
    with caplog.at_level(logging.INFO, LOG):
        launches.follow(_launch("a"), epoch=1)
        wait_until("the report to the guild", lambda: bus.published)
    assert any("g/a has failed: its database is not up" in record.message for record in caplog.records)
    ((namespace, topic, message),) = bus.published
    assert (namespace, topic, message.sender.id, message.sender.name) == ("g", "g:heartbeat", "a", "A")
    assert message.payload["checkstatus"] == "error"
    assert message.payload["checkmeta"] == {"reason": "its database is not up"}


def test_where_nothing_is_to_be_reported_the_log_says_it(
    following: Callable[..., Launches], bus: _Bus, caplog: pytest.LogCaptureFixture
) -> None:
    """A program that launches agents has no manager to report to."""
    launches = following(_agent("a", agent_pb2.AGENT_PHASE_FAILED, message="why"), _BOOKMARK, reports=False)
    launches.follow(_launch("a"), epoch=1)
    wait_until("the log", lambda: [r for r in caplog.records if r.name == LOG and r.levelno == logging.ERROR])
    assert bus.published == []


def test_one_that_has_settled_before_it_is_followed_is_not_waited_for(
    following: Callable[..., Launches], bus: _Bus, caplog: pytest.LogCaptureFixture
) -> None:
    """The watch may be faster than the answer of the launch; what it sent of an earlier claim does not count."""
    pending = agent_pb2.AGENT_PHASE_PENDING
    launches = following(
        _agent("slow", pending), _agent("a", agent_pb2.AGENT_PHASE_FAILED, epoch=5, message="too late"), _BOOKMARK
    )
    launches.follow(_launch("slow"), epoch=1)
    wait_until("the watch to have sent all", lambda: launches._watched.get("a"))
    launches.follow(_launch("a"), epoch=6)
    assert bus.published == [], "it is launched anew"
    launches.follow(_launch("a"), epoch=5)
    wait_until("the report to the guild", lambda: bus.published)


def test_one_that_is_gone_is_forgotten(following: Callable[..., Launches], bus: _Bus) -> None:
    """Stopped before the watch began, or while it goes on."""
    removed = pb.WatchAgentsResponse(removed=pb.RemovedAgent(agent_id="b"))
    launches = following(_agent("b", agent_pb2.AGENT_PHASE_STARTING), _BOOKMARK, removed)
    launches.follow(_launch("b"), epoch=1)
    launches.follow(_launch("a"), epoch=1)
    wait_until("nobody to be followed", lambda: launches._thread is None)
    assert bus.published == []


def test_a_bus_that_cannot_be_used_is_no_failure_of_who_launches(
    following: Callable[..., Launches], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has both: why the agent failed, and that the guild does not know."""

    def no_bus(_config: MessagingConfig) -> None:
        raise ValueError("nobody listens")

    monkeypatch.setattr(MessagingConfig, "get_storage", no_bus)
    following().report(_launch("a"), "why")
    assert [r.levelno for r in caplog.records if r.name == LOG] == [logging.ERROR] * 2
