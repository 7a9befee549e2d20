"""What the runtime adds to the backend of rusticai-redis, so that a connection that breaks loses nothing.

Redis forgets what it publishes: who is not subscribed at that moment misses it. The backend replays what a topic has kept when
it subscribes, but neither when redis-py connects anew by itself nor when the backend does, and the next message that is
handled moves its position past what was missed. Here:

```text
connection breaks ──▶ listener connects anew, for as long as the bus may be away ──▶ SUBSCRIBE ──▶ Redis confirms a topic
                                    ▲                                                                │
          handlers at work wait with what they publish                 what the topic has kept and was never handled
                                                                     is delivered as if it had just been published
```

Once Redis has confirmed, it publishes to this connection whatever is stored from then on, and nothing of that has been read
yet: so what was missed is handled before what comes later, and no position passes it. For the same reason the backend replays
a topic, as it subscribes for the first time, only when Redis has confirmed it.
"""

from collections.abc import Callable
import contextlib
import json
import logging
import threading
import time
from typing import Any, Protocol

import redis

from rustic_ai.k8s.runtime.handled import Earlier, Entry, Handled
from rustic_ai.k8s.runtime.handling import Concerns, Head
from rustic_ai.redis.messaging.backend import RedisMessagingBackend
from rustic_ai.redis.messaging.exceptions import RedisConnectionFailureError

logger = logging.getLogger(__name__)

# What a bus that is away, begins, or moves answers.
AWAY = (
    RedisConnectionFailureError,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
)
# Seconds for which a bus may be away, unless the backend's configuration says something else.
_AWAY = 300.0
# Seconds between two tries, at first and at most.
_FIRST, _MOST = 0.05, 0.5
# Milliseconds by which a message may reach the bus later than it was made, clocks of senders that differ included: after a gap, and
# while a client subscribes for the first time.
_LATE, _LATE_AT_START = 120_000, 1_000
# Seconds for which a replay waits for Redis to confirm; it comes with the next bytes, unless the bus is away.
_CONFIRMED = 1.0
# Seconds until redis-py certainly knows who handles a topic that it has subscribed to.
_KNOWN = 0.1
# In a record that is not kept any longer; and in one that was cut, with the time in milliseconds, negative, in the place of a turn.
_ENDED, _FLOOR = "ended", "floor"
# What handlers call.
_CALLS = ("store_message", "get_messages_for_topic", "get_messages_for_topic_since", "get_messages_by_id")
# What is needed of the backend's manager, beside what is public in redis-py.
_NEEDED = ("config", "pubsub", "redis_thread", "_load_position", "_save_position", "_enqueue_for_client")


class Waits(Protocol):
    """Who knows whether a thread may wait for a bus that is away."""

    def may_wait(self) -> bool:
        """Whether this thread may."""

    def wait(self, seconds: float) -> None:
        """Waits; for ever if nobody waits for the result any more."""


class RedisBus:
    """The bus as one agent uses it. All its threads may use it."""

    @classmethod
    def of(
        cls, backend: Any, waits: Waits, concerns: Concerns, topics: Callable[[], list[str]]
    ) -> "RedisBus | None":
        """The bus behind a backend.

        Args:
            backend: The backend.
            waits: Who knows whether a thread may wait.
            concerns: Whether a client has anything to do with a message.
            topics: Those that are known to be subscribed to, when the first of them is.

        Returns:
            None if the backend is another one than rusticai-redis has, or not as we know it.
        """
        if not isinstance(backend, RedisMessagingBackend):
            return None
        manager = getattr(backend, "_pubsub_manager", None)
        missing = [name for name in _NEEDED if not hasattr(manager, name)]
        if missing:
            logger.warning(
                "messages may be lost when a connection breaks: this rusticai-redis has no %s", ", ".join(missing)
            )
            return None
        return cls(backend, manager, waits, concerns, topics)

    def __init__(
        self,
        backend: Any,
        manager: Any,
        waits: Waits,
        concerns: Concerns,
        topics: Callable[[], list[str]],
    ) -> None:
        """Takes part in whatever the backend does from now on. It has subscribed to nothing yet."""
        self._client, self._waits, self._concerns, self._topics = backend.r, waits, concerns, topics
        self._longest = float(getattr(manager.config, "pubsub_max_retry_time", _AWAY))
        # Of each topic, what its clients have handled, and when the first of them has subscribed.
        self._clients: dict[str, dict[str, Handled]] = {}
        self._joined: dict[str, int] = {}
        # Topics that Redis has confirmed; and of each that was looked through, what was missed and delivered, as far as it waits to be
        # handled.
        self._confirmed: set[str] = set()
        self._caught_up: dict[str, set[int]] = {}
        self._catching_up = threading.Lock()
        # All topics were looked through for what earlier lives have left.
        self._settled = False
        # Topics that were replayed though Redis had not confirmed them.
        self._uncertain: set[str] = set()
        self._confirms = threading.Condition()
        self._hear: Callable[[list[Any]], Any]
        self._records: dict[tuple[str, str], _Record] = {}
        # Those that were read and nobody has asked for yet.
        self._positions: dict[str, str | None] = {}
        self._broken_since: float | None = None
        self._tries = 0
        for name in _CALLS:
            setattr(backend, name, self._patient(getattr(backend, name)))
        manager._load_position = self._load
        manager._save_position = self._save
        manager._enqueue_for_client = self._noting(manager._enqueue_for_client)
        pubsub = self._client.pubsub
        self._client.pubsub = lambda **options: self._listens(pubsub(**options))
        self._listens(manager.pubsub)
        manager.redis_thread.exception_handler = self._broken

    def joins(self, topic: str, client_id: str) -> Handled:
        """A client is about to subscribe to a topic.

        Returns:
            What it has handled of it.
        """
        record = _Record(self, self._client, client_id, topic)
        handled = Handled(record.load, settled=self._settled)
        self._records[client_id, topic] = record
        self._joined.setdefault(topic, time.time_ns() // 1_000_000)
        self._clients.setdefault(topic, {})[client_id] = handled
        return handled

    def position(self, client_id: str, topic: str) -> str | None:
        """Reads a backend's position. Those of the topics to come are read along with it: a call costs more than an answer."""
        name = _position(client_id, topic)
        if name not in self._positions:
            names = list({name, *(_position(client_id, other) for other in self._topics())})

            def read() -> list[str | None]:
                with self._client.pipeline(transaction=False) as pipe:
                    for each in names:
                        pipe.get(each)
                    return pipe.execute()

            self._positions.update(zip(names, self.patiently(read), strict=True))
        return self._positions.pop(name)

    def patiently[T](self, work: Callable[[], T]) -> T:
        """Does something with the bus, as soon as it is there again.

        Raises:
            Exception: What the bus answers; that it is away only in a thread that may not wait, or after all the time there is.
        """
        began, tries = time.monotonic(), 0
        while True:
            try:
                return work()
            except AWAY:
                if not self._waits.may_wait() or time.monotonic() - began > self._longest:
                    raise
            self._waits.wait(_pause(tries))
            tries += 1

    def _patient[**P, T](self, call: Callable[P, T]) -> Callable[P, T]:
        def patient(*arguments: P.args, **named: P.kwargs) -> T:
            return self.patiently(lambda: call(*arguments, **named))

        return patient

    def _load(self, client_id: str, topic: str) -> int:
        """Where the backend's replay begins. To ask the bus takes as long as a confirmation, so that there is seldom one to wait for."""
        position = self._clients[topic][client_id].earlier.position
        if topic not in self._confirmed:
            with self._confirms:
                if not self._confirms.wait_for(lambda: topic in self._confirmed, _CONFIRMED):
                    self._uncertain.add(topic)
        return position

    def _save(self, client_id: str, topic: str, message_id: int) -> None:
        """Notes on the bus that a client has handled a message, or that its handler failed."""
        entry = self._clients[topic][client_id].record(message_id)
        if entry is not None:
            self._records[client_id, topic].add(entry)

    def _noting(self, enqueue: Callable[..., None]) -> Callable[..., None]:
        """Notes what waits to be handled before the thread that handles can come to it."""

        def noting(client_id: str, namespace: str | None, topic: str, handler: Any, message: Any) -> None:
            self._clients[topic][client_id].delivered(message.id)
            enqueue(client_id, namespace, topic, handler, message)

        return noting

    def _listens(self, pubsub: Any) -> Any:
        """Sees what a subscription hears, and whether its connection breaks."""
        handle, run = pubsub.handle_message, pubsub.run_in_thread

        def deliver(response: list[Any]) -> Any:
            if self._passes_by(_text(response[1]), response[2]):
                return None
            give_up = time.monotonic() + _KNOWN
            # redis-py subscribes first, and then notes whose handler it is.
            while response[1] not in pubsub.channels and time.monotonic() < give_up:
                time.sleep(0)
            try:
                return handle(response)
            except (ValueError, TypeError, KeyError, AttributeError):
                # Else it would end the listener, and be in its way each time that it catches up.
                logger.exception("something on the topic %s is no message", _text(response[1]))

        def handle_message(response: Any, ignore_subscribe_messages: bool = False) -> Any:
            self._broken_since, self._tries = None, 0
            kind = _text(response[0]) if isinstance(response, list) else ""
            if kind == "message":
                return deliver(response)
            answer = handle(response, ignore_subscribe_messages)
            if kind == "subscribe":
                self._catch_up(_text(response[1]))
            return answer

        def run_in_thread(*arguments: Any, **options: Any) -> Any:
            return run(*arguments, **{"exception_handler": self._broken, **options})

        pubsub.handle_message, pubsub.run_in_thread, self._hear = handle_message, run_in_thread, deliver
        return pubsub

    def _passes_by(self, topic: str, text: str) -> bool:
        """Notes a message that none of the clients of its topic has a handler for. To read its head takes a third of the time that it would take to hand it
        to the thread that handles, which would find no handler either."""
        clients = self._clients.get(topic, {})
        try:
            message = json.loads(text)
            number = int(message["id"])
            head = Head(message["format"], message["topic_published_to"], message["sender"]["id"])
        except (ValueError, TypeError, KeyError):
            # Whoever handles it says what is wrong with it.
            return False
        if not clients or any(self._concerns(client_id, head) for client_id in clients):
            return False
        for client_id, handled in clients.items():
            if number not in handled:
                handled.add(number, again=True)
                self._save(client_id, topic, number)
        return True

    def _broken(self, error: BaseException, _pubsub: Any, _thread: Any) -> None:
        """The listener could not read. It tries anew when this returns; when this raises it ends, and the backend makes another one."""
        now = time.monotonic()
        self._broken_since = self._broken_since or now
        if not isinstance(error, AWAY) or now - self._broken_since > self._longest:
            raise error
        if self._tries == 0:
            logger.warning("the connection to the message bus broke: %s", error)
        time.sleep(_pause(self._tries))
        self._tries += 1

    def must_settle(self) -> bool:
        """Whether something may have been missed while the clients subscribed for the first time."""
        return bool(self._unsettled())

    def _unsettled(self) -> list[str]:
        return [
            topic
            for topic, clients in self._clients.items()
            if topic not in self._caught_up
            and (topic in self._uncertain or any(client.earlier.position for client in clients.values()))
        ]

    def settle(self) -> None:
        """Delivers what was missed while the clients subscribed for the first time: what a position passed in the life before, and what
        came when the backend had replayed and Redis had not yet subscribed us. Nothing is lost if that takes its time: what a position
        passes meanwhile the record still knows. To be called once all have subscribed, in a thread that may wait."""
        with self._catching_up:
            reach = {topic: self._reach(topic, again=False) for topic in self._unsettled()}

            def read() -> list[list[str]]:
                with self._client.pipeline(transaction=False) as pipe:
                    for topic, since in reach.items():
                        pipe.zrangebyscore(topic, since, "+inf")
                    return pipe.execute()

            for topic, kept in zip(reach, self.patiently(read) if reach else [], strict=True):
                self._deliver(topic, kept, again=False)
            self._settled = True
            for clients in list(self._clients.values()):
                for handled in list(clients.values()):
                    handled.settled = True

    def _catch_up(self, topic: str) -> None:
        """Delivers what a topic has kept and its clients missed. Redis has just confirmed the subscription."""
        with self._catching_up:
            if topic in self._clients and (topic in self._confirmed or topic in self._caught_up):
                since = self._reach(topic, again=True)
                kept = self.patiently(lambda: self._client.zrangebyscore(topic, since, "+inf"))
                self._deliver(topic, kept, again=True)
        with self._confirms:
            self._confirmed.add(topic)
            self._confirms.notify_all()

    def _reach(self, topic: str, *, again: bool) -> int:
        """From when on messages may have been missed, in milliseconds."""
        joined = self._joined[topic]
        since = [joined - _LATE_AT_START]
        for client in self._clients[topic].values():
            if again or client.earlier.ids:
                since.append(min(client.since() or joined, joined) - _LATE)
            if client.earlier.floor:
                # What waited when the life before ended was made after it.
                since.append(client.earlier.floor)
        return min(since)

    def _deliver(self, topic: str, kept: list[str], *, again: bool) -> None:
        """Delivers what is missing of what a topic has kept, as if it had just been published."""
        clients, late = list(self._clients[topic].values()), self._joined[topic] - _LATE_AT_START
        # What was delivered and waits to be handled.
        waiting = {number for number in self._caught_up.get(topic, ()) if any(client.lacks(number) for client in clients)}
        missed: dict[int, str] = {}
        for text in kept:
            number = _number(text)
            if number and number not in waiting and any(
                client.lacks(number) if again else client.is_left_out(number, late) for client in clients
            ):
                missed[number] = text
        if missed and again:
            logger.warning("%d messages of %s came while the connection was broken", len(missed), topic)
        for number in sorted(missed):
            self._hear(["message", topic, missed[number]])
        self._caught_up[topic] = waiting | missed.keys()


def _position(client_id: str, topic: str) -> str:
    """The key under which the backend keeps a position."""
    return f"eo:pos:{client_id}:{topic}"


class _Record:
    """What one client has handled of one topic, on the bus: the backend's position, and beside it a sorted set of ids by their turn."""

    def __init__(self, bus: RedisBus, client: Any, client_id: str, topic: str) -> None:
        self._bus, self._client, self._of = bus, client, (client_id, topic)
        self._position = _position(client_id, topic)
        self._ids = f"{self._position}#handled"
        self._turn = 0
        # An account may be allowed nothing but what rusticai-redis does.
        self._allowed = True

    def load(self) -> Earlier:
        """Reads it."""
        position = self._bus.position(*self._of)
        if position is None:
            return Earlier()
        try:
            ids = self._bus.patiently(lambda: self._client.zrange(self._ids, 0, -1, withscores=True))
        except redis.exceptions.NoPermissionError as error:
            self._stop(error)
            ids = []
        if ids and ids[-1][0] == _ENDED:
            self._allowed, ids = False, []
        floor = 0
        if ids and ids[0][0] == _FLOOR:
            floor = -int(ids[0][1])
            del ids[0]
        if ids:
            self._turn = int(ids[-1][1])
        return Earlier(int(position), [int(number) for number, _ in ids], floor)

    def add(self, entry: Entry) -> None:
        """Notes an id, and the position."""
        self._turn += 1

        def write() -> None:
            with self._client.pipeline(transaction=False) as pipe:
                pipe.set(self._position, entry.position)
                if self._allowed:
                    pipe.zadd(self._ids, {str(entry.message_id): self._turn})
                    if entry.gone:
                        pipe.zadd(self._ids, {_FLOOR: -entry.floor})
                        pipe.zrem(self._ids, *map(str, entry.gone))
                self._answers(pipe)

        try:
            kept = self._allowed
            self._bus.patiently(write)
            if kept and not self._allowed:
                # What it lacks from now on must not be taken for missed.
                with contextlib.suppress(redis.exceptions.NoPermissionError):
                    self._bus.patiently(lambda: self._client.zadd(self._ids, {_ENDED: float("inf")}))
        except (*AWAY, redis.exceptions.RedisError):
            # As the backend does.
            logger.exception("the position of %s could not be saved", self._position)

    def _answers(self, pipe: Any) -> list[Any]:
        answers = pipe.execute(raise_on_error=False)
        for place, answer in enumerate(answers):
            if place and isinstance(answer, redis.exceptions.NoPermissionError):
                self._stop(answer)
            elif isinstance(answer, Exception):
                raise answer
        return answers

    def _stop(self, error: Exception) -> None:
        logger.warning("messages may be lost or handled twice after a restart: %s", error)
        self._allowed = False


def _number(text: str) -> int:
    """The id of a stored message; 0: it is no message."""
    try:
        return int(json.loads(text)["id"])
    except (ValueError, TypeError, KeyError):
        return 0


def _pause(tries: int) -> float:
    return min(_FIRST * 2.0 ** min(tries, 10), _MOST)


def _text(word: Any) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)
