"""The guard around an agent's handlers: knows which message is at work, and what a handler may not do silently.

```text
message ──▶ set aside? ──▶ stopping? ──▶ handler ──▶ returns, or raises an Exception: Rustic AI's to report
                │              │             └─────▶ raises anything else: the process says so and ends
                ▼              ▼
       dead-letter topic     parked
```

It stands between the messaging backend and Rustic AI's client: what it returns from counts as handled, and the backend
advances the agent's position; what it keeps, or does not survive, is handled by the next life.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import logging
import queue
import sys
import threading
import time
from typing import Any, Self

from rustic_ai.core.messaging.core.dead_letter import (
    DEAD_LETTER_QUEUE,
    build_dead_letter_message,
    resolve_dead_letter_namespace,
    resolve_dead_letter_topic,
)
from rustic_ai.core.messaging.core.message import Message
from rustic_ai.k8s.runtime.document import Skip
from rustic_ai.k8s.runtime.ending import Ending, park
from rustic_ai.k8s.runtime.handled import Handled
from rustic_ai.k8s.runtime.host import HostSocket
from rustic_ai.k8s.runtime.sigterm import StoppedEarly
from rustic_ai.k8s.runtime.state import Phase, State, key
from rustic_ai.k8s.runtime.tracing import under_launch

logger = logging.getLogger(__name__)

type Handler = Callable[[Message], None]
# Whether a client has anything to do with a message: its id, and what is known of the message.
type Concerns = Callable[[str | None, "Head"], bool]


@dataclass(frozen=True, slots=True)
class Head:
    """What decides whether an agent has a handler for a message, under the names that a message has for it."""

    format: str | None
    topic_published_to: str | None
    sender_id: str | None

    @classmethod
    def of(cls, message: Message) -> Self:
        """That of a message."""
        return cls(message.format, message.topic_published_to, message.sender.id)

# Seconds in which a loop whose handler has returned takes note of it, and between two looks at whether it has.
_NOTE, _LOOK = 1.0, 0.001


class SetAside(Exception):
    """A message over which the agent has died again and again; the name stands in the dead letter."""


class Guard:
    """Watches the handlers of one agent."""

    def __init__(self, state: State, skip: Sequence[Skip], host: HostSocket, ending: Ending) -> None:
        """Guards nothing yet.

        Args:
            state: Where the host reads what is at work.
            skip: Messages that are set aside instead of being handled.
            host: Gets notice of those.
            ending: Ends the process.
        """
        self._state, self._host, self._ending = state, host, ending
        self._skip = {key(skipped.topic, skipped.message_id): skipped for skipped in skip}
        self._stopping = False
        self._changed = threading.Condition(threading.Lock())
        # Threads with the message that each handles, in the order in which they took it.
        self._at_work: dict[int, tuple[bytes, int]] = {}
        self._last: threading.Thread | None = None
        self._loops: frozenset[threading.Thread] = frozenset()
        self._bus: Any = None
        self._concerns: Concerns = lambda _client_id, _head: True

    def attach(self, backend: Any, concerns: Concerns, topics: Callable[[], list[str]]) -> None:
        """Guards whatever is subscribed to a backend from now on.

        Args:
            backend: The backend.
            concerns: Whether a client has anything to do with a message.
            topics: Those that the agent subscribes to, with the namespace, as far as they are known.
        """
        self._concerns = concerns
        self._bus = _bus_of(backend, self, concerns, topics)
        # NATS remembers what was acknowledged, and delivers again what was not within 30 s, even while it is handled.
        repeats = type(backend).__module__.startswith("rustic_ai.nats.")
        subscribe = backend.subscribe

        def guarded(
            topic: str, handler: Handler, client_id: str | None = None, namespace: str | None = None, **more: Any
        ) -> Any:
            handled = Handled() if repeats else None
            if self._bus is not None and client_id is not None:
                handled = self._bus.joins(topic, client_id)
            wrapped = self.wrap(handler, backend, topic, client_id, namespace, handled)
            return subscribe(topic, wrapped, client_id=client_id, namespace=namespace, **more)

        backend.subscribe = guarded

    def wrap(
        self,
        handler: Handler,
        backend: Any,
        topic: str,
        client_id: str | None = None,
        namespace: str | None = None,
        handled: Handled | None = None,
    ) -> Handler:
        """A handler under guard.

        Args:
            handler: The handler.
            backend: Where its messages come from.
            topic: Topic of the messages, with the namespace.
            client_id: Whose handler it is, as the backend knows it.
            namespace: Namespace of the topic.
            handled: What the client has handled of the topic; None: the backend delivers nothing twice.
        """
        name = key(topic, 0)[0]
        handler = under_launch(handler)

        def handle(message: Message) -> None:
            if handled is not None:
                if message.id in handled:
                    return
                if not self._concerns(client_id, Head.of(message)):
                    # To be delivered again to the next life does no harm.
                    handled.add(message.id, again=True)
                    return
            delivery = (name, key("", message.id)[1])
            if self._skip and delivery in self._skip:
                self._set_aside(self._skip[delivery], message, backend, client_id, topic, namespace)
                return
            me = threading.get_ident()
            if me in self._at_work:
                # The handler at work had it delivered to itself: part of the same work.
                handler(message)
                return
            if not self._begin(me, delivery):
                if threading.current_thread() is threading.main_thread():
                    return
                park()
            try:
                handler(message)
                if handled is not None:
                    handled.add(message.id)
            except (Exception, StoppedEarly):
                raise
            except BaseException as error:
                if self._ending.is_ours:
                    # Still at work on it, as far as the host can see.
                    self._ending.die("a handler raised", error)
                raise
            finally:
                self._end(me)

        return handle

    def watch(self, loops: frozenset[threading.Thread]) -> None:
        """Takes note of the threads that take one message after the other, and wait for the next one in a queue."""
        self._loops = loops

    def settle(self) -> None:
        """Whatever is to be subscribed is."""
        if self._bus is None:
            return
        if self._bus.must_settle():
            threading.Thread(target=self._bus.settle, name="bus-settle", daemon=True).start()
        else:
            self._bus.settle()

    def look(self) -> None:
        """Notes in the page that Python runs, and that the loop which took the last message has come round."""
        self._state.beat()
        if self._state.phase is Phase.RETURNS:
            with self._changed:
                last = self._last
                if self._state.phase is Phase.RETURNS and (last is None or _waits(last)):
                    self._state.rests(Phase.WAITS)

    def stop(self) -> None:
        """From now on a message that comes is parked, and stays for the next life."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def finish(self) -> None:
        """Waits until no handler is at work and the loop has taken note of it, for as long as it takes: who wants the
        process gone earlier kills it."""
        with self._changed:
            while self._at_work:
                self._changed.wait()
            last = self._last
        give_up = time.monotonic() + _NOTE
        while last in self._loops and last is not None and not _waits(last) and time.monotonic() < give_up:
            time.sleep(_LOOK)

    def may_wait(self) -> bool:
        """Whether this thread may wait for a message bus that is away: not while the agent is built."""
        return threading.current_thread() is not threading.main_thread()

    def wait(self, seconds: float) -> None:
        """Waits for a message bus that is away. The host sees no work meanwhile.

        When the agent is stopped, a handler does not wait any longer: its message is for the next life.
        """
        me = threading.get_ident()
        with self._changed:
            if me not in self._at_work:
                self._changed.wait(seconds)
                return
            if self._state.phase is Phase.HANDLES:
                self._state.rests(Phase.WAITS)
            if not self._stopping:
                self._changed.wait(seconds)
            if not self._stopping:
                self._state.handles(*next(iter(self._at_work.values())))
                return
            del self._at_work[me]
            self._changed.notify_all()
        park()

    def forget(self) -> None:
        """What is forked from this process is not the agent: it writes to no page, and parks nothing."""
        self._state = State("")
        self._changed = threading.Condition(threading.Lock())
        self._stopping = False

    def _begin(self, thread: int, delivery: tuple[bytes, int]) -> bool:
        with self._changed:
            if self._stopping:
                return False
            self._at_work[thread] = delivery
            if len(self._at_work) == 1:
                self._state.handles(*delivery)
            return True

    def _end(self, thread: int) -> None:
        with self._changed:
            self._at_work.pop(thread, None)
            if self._at_work:
                # The one that was taken first has been at work for the longest.
                self._state.handles(*next(iter(self._at_work.values())))
                return
            self._last = threading.current_thread()
            self._state.rests(Phase.RETURNS if self._last in self._loops else Phase.WAITS)
            self._changed.notify_all()

    def _set_aside(
        self,
        skipped: Skip,
        message: Message,
        backend: Any,
        client_id: str | None,
        topic: str,
        namespace: str | None,
    ) -> None:
        """Publishes a message to the guild's dead-letter topic instead of handling it.

        Raises:
            SetAside: It could not be published; the backend treats the message like one whose handler failed.
        """
        why = SetAside(f"the agent died {skipped.deaths} times over it: {skipped.reason}")
        dead_letter_topic = resolve_dead_letter_topic(topic, namespace)
        if topic != dead_letter_topic:
            letter = build_dead_letter_message(
                backend_name=type(backend).__name__,
                client_id=client_id or "",
                original_topic=topic,
                original_message=message,
                error=why,
            )
            # Rustic AI delivers only what says where it was published; its own dead letters do not.
            letter.topic_published_to = DEAD_LETTER_QUEUE
            try:
                backend.store_message(resolve_dead_letter_namespace(topic, namespace), dead_letter_topic, letter)
            except Exception as error:
                raise why from error
        logger.error("message %s of topic %s is set aside: %s", message.id, topic, why)
        self._host.set_aside(skipped.topic, skipped.message_id)


def _bus_of(backend: Any, guard: Guard, concerns: Concerns, topics: Callable[[], list[str]]) -> Any:
    """What the runtime adds to a backend; None: nothing."""
    if not type(backend).__module__.startswith("rustic_ai.redis."):
        return None
    # Only who has it can import what it needs.
    from rustic_ai.k8s.runtime.redis_bus import RedisBus

    return RedisBus.of(backend, guard, concerns, topics)


def _waits(thread: threading.Thread) -> bool:
    """Whether a thread waits for work in a queue, is parked, or has ended."""
    if not thread.is_alive():
        return True
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if frame.f_code in (queue.Queue.get.__code__, park.__code__):
            return True
        frame = frame.f_back
    return False
