"""P8 over a message bus that breaks: every question is answered once, whatever happens to connections and to the bus."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
import json
from pathlib import Path
import threading
import time
from typing import Any, cast

from conftest import wait_until
from lives import GUILD, Life, nats_messaging, redis_messaging
import pytest
import redis
from servers import NatsServer, RedisServer

from rustic_ai.core.messaging import AgentTag, Message, MessageConstants, MessagingConfig, Priority
from rustic_ai.core.utils import GemstoneGenerator, GemstoneID
from rustic_ai.k8s.runtime.ending import Ending
from rustic_ai.k8s.runtime.handled import RECORDED, Earlier, Entry, Handled, made
from rustic_ai.k8s.runtime.handling import Guard
from rustic_ai.k8s.runtime.host import HostSocket
from rustic_ai.k8s.runtime.state import State

_TOPIC = f"{GUILD}:default_topic"
_CLASS = "bus_agents.Answerer"


_IDS = GemstoneGenerator(200)


def question(number: int, priority: Priority = Priority.NORMAL, seconds: float = 0) -> Message:
    """A question to all."""
    return Message(
        topics="default_topic",
        topic_published_to="default_topic",
        sender=AgentTag(id="asker", name="asker"),
        format=MessageConstants.RAW_JSON_FORMAT,
        payload={"question": number, "seconds": seconds},
        id_obj=_IDS.get_id(priority),
    )


class Asker:
    """Asks as rusticai-redis stores messages, and keeps at it while the bus is away."""

    def __init__(self, server: RedisServer) -> None:
        """Has asked nothing."""
        self._client = server.client()
        self.asked: list[int] = []

    def store(self, message: Message, publish: bool = True) -> None:
        """Stores a question and publishes it."""
        self.asked.append(message.payload["question"])
        self._last = message.id
        text, give_up = message.to_json(), time.monotonic() + 30
        while True:
            try:
                self._client.set(f"msg:{GUILD}:{message.id}", text, ex=3600)
                self._client.zadd(_TOPIC, {text: message.timestamp})
                if publish:
                    self._client.publish(_TOPIC, text)
                return
            except redis.exceptions.ConnectionError:
                assert time.monotonic() < give_up
                time.sleep(0.02)

    def ask(self, number: int, **how: Any) -> None:
        """Stores and publishes a question."""
        self.store(question(number, **how))

    def answers(self) -> Counter[int]:
        """How often each question was answered."""
        payloads = [json.loads(text)["payload"] for text in self._client.zrange(_TOPIC, 0, -1)]
        return Counter(payload["answer"] for payload in payloads if "answer" in payload)

    def wait_until_recorded(self) -> None:
        """Waits until the agent has recorded the last question: who dies between an answer and that answers again."""

        def positions() -> list[str]:
            return [self._client.get(key) for key in self._client.scan_iter(f"eo:pos:*:{_TOPIC}")]

        wait_until("the record", lambda: str(self._last) in positions())

    def expect_one_answer_each(self) -> None:
        """Waits until all is answered; nothing may be answered twice."""
        wait_until("every question to be answered", lambda: not set(self.asked) - set(self.answers()))
        # A question of the end: what else waited before it has been handled as well.
        last = max(self.asked) + 1
        self.ask(last)
        wait_until("the last answer", lambda: last in self.answers())
        assert self.answers() == Counter(self.asked)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A message bus of this test's own."""
    with RedisServer(tmp_path) as server:
        yield server


@contextmanager
def _again_and_again(work: Any, pause: float) -> Iterator[None]:
    """Does something in the background until the end."""
    over = threading.Event()

    def loop() -> None:
        while not over.wait(pause):
            work()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_every_message_is_answered_once_while_subscriptions_are_cut_again_and_again(server: RedisServer) -> None:
    asker, cutter = Asker(server), server.client()
    with Life(_CLASS, redis_messaging(server.port)) as life:
        with _again_and_again(lambda: cutter.execute_command("CLIENT", "KILL", "TYPE", "pubsub"), 0.02):
            for number in range(400):
                asker.ask(number)
                time.sleep(0.002)
        asker.expect_one_answer_each()
        assert life.stop() == 0
    with Life(_CLASS, redis_messaging(server.port)):
        asker.expect_one_answer_each()


def test_every_message_is_answered_once_while_all_connections_are_cut(server: RedisServer) -> None:
    asker, cutter = Asker(server), server.client()
    cut = ("CLIENT", "KILL", "SKIPME", "yes")
    with Life(_CLASS, redis_messaging(server.port)):
        with _again_and_again(lambda: cutter.execute_command(*cut), 0.05):
            for number in range(300):
                asker.ask(number)
                time.sleep(0.002)
        asker.expect_one_answer_each()


def test_every_message_is_answered_once_by_two_lives_when_the_bus_is_killed_and_comes_back(server: RedisServer) -> None:
    asker = Asker(server)

    def crash() -> None:
        server.kill()
        time.sleep(0.3)
        server.start()

    with Life(_CLASS, redis_messaging(server.port)) as life:
        with _again_and_again(crash, 0.7):
            for number in range(300):
                asker.ask(number)
                time.sleep(0.01)
        asker.expect_one_answer_each()
        assert life.stop() == 0
    with Life(_CLASS, redis_messaging(server.port)):
        asker.expect_one_answer_each()


def test_a_bus_that_is_away_for_a_while_ends_no_agent_and_loses_no_answer(server: RedisServer) -> None:
    asker = Asker(server)
    with Life(_CLASS, redis_messaging(server.port)):
        # At work when the bus goes.
        asker.ask(0, seconds=1.0)
        server.kill()
        time.sleep(8)
        server.start()
        asker.ask(1)
        asker.expect_one_answer_each()


def test_an_agent_that_is_stopped_while_the_bus_is_away_leaves_its_message_to_the_next_life(server: RedisServer) -> None:
    asker = Asker(server)
    with Life(_CLASS, redis_messaging(server.port)) as life:
        asker.ask(0)
        wait_until("an answer", lambda: 0 in asker.answers())
        server.kill()
        # Its connection is gone, and it waits with nothing.
        assert life.stop() == 0
    server.start()
    with Life(_CLASS, redis_messaging(server.port)) as life:
        asker.ask(1, seconds=1.0)
        at_work = f"PUBSUB NUMSUB {_TOPIC}".split()
        wait_until("the agent to listen", lambda: asker._client.execute_command(*at_work)[1])
        time.sleep(0.5)
        server.kill()
        # Its handler comes to an end meanwhile, and waits with the answer.
        time.sleep(1.5)
        assert life.stop() == 0
    server.start()
    with Life(_CLASS, redis_messaging(server.port)):
        asker.expect_one_answer_each()


def test_what_a_position_passes_is_handled_by_the_next_life(server: RedisServer) -> None:
    """Messages that reach the bus late, or are more urgent, have smaller ids than others that were handled before."""
    asker = Asker(server)
    late = [question(number) for number in range(3)]
    with Life(_CLASS, redis_messaging(server.port)) as life:
        for number in range(10, 20):
            asker.ask(number, priority=Priority.LOW)
        wait_until("answers", lambda: len(asker.answers()) == 10)
        assert life.stop() == 0
    for message in late:
        asker.store(message)
    asker.ask(30, priority=Priority.URGENT)
    with Life(_CLASS, redis_messaging(server.port)) as life:
        asker.expect_one_answer_each()
        # As little as it was, a position that goes back must not bring back what was handled.
        asker.ask(40, priority=Priority.URGENT)
        wait_until("an answer", lambda: 40 in asker.answers())
        asker.wait_until_recorded()
        life.kill()
    with Life(_CLASS, redis_messaging(server.port)):
        asker.expect_one_answer_each()


def test_no_message_is_lost_or_answered_twice_while_an_agent_subscribes(server: RedisServer) -> None:
    """In its first life, before and after Redis has confirmed, and again in its second."""
    asker = Asker(server)
    numbers = iter(range(1_000_000))
    for _ in range(3):
        with _again_and_again(lambda: asker.ask(next(numbers)), 0.0005), Life(_CLASS, redis_messaging(server.port)) as life:
            wait_until("a question", lambda: asker.asked)
            # One of those that come while it subscribes; on a busy machine it never catches up with the latest.
            number = asker.asked[-1]
            wait_until("an answer", lambda: number in asker.answers())
            assert life.stop() == 0
    with Life(_CLASS, redis_messaging(server.port)):
        asker.expect_one_answer_each()


def test_what_an_agent_has_no_handler_for_is_not_written_down_and_holds_up_nothing(server: RedisServer) -> None:
    asker = Asker(server)

    def records() -> list[str]:
        return list(server.client().scan_iter("eo:pos:*heartbeat*"))

    for number in (1, 2):
        with Life(_CLASS, redis_messaging(server.port)) as life:
            for _ in range(10):
                report = question(0)
                report.topics = report.topic_published_to = "heartbeat"
                report.format = "somebody.elses.Report"
                asker._client.zadd(f"{GUILD}:heartbeat", {report.to_json(): report.timestamp})
                asker._client.publish(f"{GUILD}:heartbeat", report.to_json())
            asker.ask(number)
            wait_until("an answer", lambda: number in asker.answers())
            assert records() == []
            asker.wait_until_recorded()
            life.kill()
    with Life(_CLASS, redis_messaging(server.port)):
        asker.expect_one_answer_each()


def test_another_client_of_the_topic_gets_what_the_agent_has_no_handler_for(server: RedisServer) -> None:
    backend = MessagingConfig(**redis_messaging(server.port)).get_storage()
    guard = Guard(State(""), (), cast(HostSocket, None), cast(Ending, None))
    guard.attach(backend, lambda client_id, _head: client_id != "agent", lambda: [])
    heard: Counter[str] = Counter()
    try:
        asker = Asker(server)
        # Alone, and beside the other one; before it subscribes, and after.
        backend.subscribe(_TOPIC, lambda _: heard.update(["agent"]), client_id="agent", namespace=GUILD)
        asker.ask(1)
        backend.subscribe(_TOPIC, lambda _: heard.update(["other"]), client_id="other", namespace=GUILD)
        for number in (2, 3):
            asker.ask(number)
        wait_until("the other one to have heard all", lambda: heard["other"] == 3)
        assert heard == {"other": 3}
    finally:
        backend.cleanup()


def test_an_account_that_may_do_only_what_rusticai_redis_does_is_enough(server: RedisServer) -> None:
    asker = Asker(server)
    commands = "+set +get +zadd +zrange +zrangebyscore +publish +subscribe +unsubscribe +hello +auth"
    rules = ["on", ">secret", "~g:*", "~msg:*", "~eo:pos:*", "&*", *commands.split()]
    asker._client.execute_command("ACL", "SETUSER", "agents", *rules)
    messaging = redis_messaging(server.port, username="agents", password="secret")
    for begin in (0, 100):
        with Life(_CLASS, messaging) as life:
            for number in range(begin, begin + 50):
                asker.ask(number)
            asker.expect_one_answer_each()
            asker.wait_until_recorded()
            life.kill()
    with Life(_CLASS, messaging):
        asker.expect_one_answer_each()


def test_a_message_that_is_published_twice_is_handled_once(server: RedisServer) -> None:
    asker = Asker(server)
    with Life(_CLASS, redis_messaging(server.port)):
        message = question(1)
        for _ in range(3):
            asker.store(message)
        asker.asked = [1]
        asker.expect_one_answer_each()


def test_a_message_that_nats_delivers_twice_is_handled_once(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        config = nats_messaging(server.port)
        backend = MessagingConfig(**config).get_storage()
        try:
            with Life(_CLASS, config):
                first, last = (question(number) for number in (1, 2))
                for message in (first, first, last):
                    backend.store_message(GUILD, _TOPIC, message)

                def answers() -> list[int]:
                    said = [message.payload for message in backend.get_messages_for_topic(_TOPIC)]
                    return [payload["answer"] for payload in said if "answer" in payload]

                wait_until("the last answer", lambda: 2 in answers())
                assert answers() == [1, 2]
        finally:
            backend.cleanup()


def test_what_is_remembered_of_a_topic_is_bounded_and_what_is_forgotten_counts_as_handled() -> None:
    ids = [GemstoneID(Priority.NORMAL, 1_700_000_000_000 + number, 1, 0).to_int() for number in range(5000)]
    late = GemstoneID(Priority.NORMAL, 1_700_000_000_000, 1, 1).to_int()
    handled = Handled()
    for number in ids:
        handled.add(number)
    assert ids[-1] in handled and ids[0] not in handled
    assert not handled.lacks(ids[0]) and not handled.lacks(late)
    # So is what the record of earlier lives has no room for.
    floor = made(ids[200 - RECORDED]) - 1
    handled = Handled(lambda: Earlier(ids[199], ids[200 - RECORDED : 200], floor))
    urgent = GemstoneID(Priority.URGENT, 1_700_000_000_300, 1, 0).to_int()
    now = 1_700_000_001_000
    assert [handled.is_left_out(number, now) for number in (ids[50], ids[150], ids[300], urgent)] == [False] * 3 + [True]
    assert handled.is_left_out(ids[1000], now), "it may have come too late for the backend"
    # Without a record, of an earlier version, the position alone decides.
    handled = Handled(lambda: Earlier(ids[199]))
    assert not handled.is_left_out(urgent, now) and not handled.is_left_out(ids[100], 0)


def _recorded(handled: Handled, number: int) -> Entry:
    entry = handled.record(number)
    assert entry is not None
    return entry


def test_what_waits_to_be_handled_keeps_in_the_record_what_was_handled_before_its_turn() -> None:
    now = 1_700_000_000_000
    early, late = ([GemstoneID(Priority.NORMAL, now + begin + n, 1, 0).to_int() for n in range(300)] for begin in (0, 1000))
    handled = Handled()
    for number in [*late, *early]:
        handled.delivered(number)
    kept: list[int] = []
    floor = 0
    for number in [*late, *early[:-1]]:
        entry = _recorded(handled, number)
        kept = [each for each in [*kept, number] if each not in entry.gone]
        floor = entry.floor if entry.gone else floor
        # The life could end here: what was handled is known to be, and what waits is known not to be.
        left = {each for each in [*late, *early] if each not in kept and made(each) > floor}
        assert number in kept and early[-1] in left
    assert set(late) <= set(kept) and left == {early[-1]}
    handled.record(early[-1])
    more = [GemstoneID(Priority.NORMAL, now + 2000 + n, 1, 0).to_int() for n in range(200)]
    for number in more:
        entry = _recorded(handled, number)
        kept = [each for each in [*kept, number] if each not in entry.gone]
    assert len(kept) < 2 * RECORDED, "as soon as nothing waits, the record is short"


def test_a_life_that_ends_amid_a_replay_loses_nothing_and_answers_nothing_twice(server: RedisServer) -> None:
    """A replay takes the urgent ones first, however late they came."""
    asker = Asker(server)
    for number in range(600):
        asker.store(question(number, Priority.NORMAL if number < 400 else Priority.URGENT), publish=False)
    for count in (150, 330, 480):
        with Life(_CLASS, redis_messaging(server.port)) as life:
            wait_until("some answers", lambda count=count: len(asker.answers()) >= count)
            assert life.stop() == 0
            assert len(asker.answers()) < 600, "it ended amid it"
    with Life(_CLASS, redis_messaging(server.port)):
        asker.expect_one_answer_each()


def test_a_position_goes_back_for_no_late_message_but_for_one_of_the_future() -> None:
    now = time.time_ns() // 1_000_000
    early, late, future = (GemstoneID(Priority.NORMAL, now + ms, 1, 0).to_int() for ms in (-2000, -1000, 3_600_000))
    handled = Handled()
    assert [_recorded(handled, number).position for number in (late, early, future)] == [late, late, future]
    again = GemstoneID(Priority.NORMAL, now, 2, 0).to_int()
    assert _recorded(handled, again).position == again, "a sender whose clock is an hour fast holds up nobody"
    assert handled.record(again) is None, "once is enough"
