"""Numbered messages to all agents, from outside the stack, and the answers to them.

Messages travel by rusticai-redis through a Redis of their own. While it is away the next message waits for it.
"""

from bisect import bisect_left
from collections import defaultdict
import itertools
import threading
import time

from chaos.agents import Name
from chaos.checker import Answers, Request
from chaos.network import boottime
from chaos.waiting import wait_until
from rustic_ai.core.messaging import AgentTag, Message, MessageConstants
from rustic_ai.core.utils import GemstoneGenerator
from rustic_ai.core.utils.priority import Priority
from rustic_ai.redis.messaging.backend import RedisMessagingBackend

_ANSWERS = "default_topic"
_LOOK_EVERY = 0.25
# How long the bus may be away, and the pause between two tries, in seconds.
_AWAY, _AGAIN = 60.0, 0.1
_WHILE = 1_000_000_000


class Producer:
    """Sends to every target in turn, until `stop`."""

    def __init__(self, bus: tuple[str, int], every: float) -> None:
        """Connects to the bus.

        Args:
            bus: Host and port of its Redis.
            every: Seconds between two messages to the same agent.
        """
        self._backend = RedisMessagingBackend({"host": bus[0], "port": bus[1]})
        self._ids = GemstoneGenerator(0)
        self._numbers = itertools.count(1)
        self._every = every
        self._targets: tuple[Name, ...] = ()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="producer", daemon=True)
        self._lock = threading.Lock()
        # Ids of the messages that carried `requests`.
        self._messages: list[int] = []
        self.requests: list[Request] = []
        self.faults: list[str] = []

    def start(self) -> None:
        """Begins to send."""
        self._thread.start()

    def stop(self) -> None:
        """Sends no more. Idempotent."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def add(self, names: list[Name]) -> None:
        """Sends to these agents as well."""
        self._targets = (*self._targets, *names)

    def retire(self, names: list[Name]) -> None:
        """Sends to these agents no more: when this returns, nothing is on its way that is not in `requests`."""
        self._targets = tuple(name for name in self._targets if name not in names)
        with self._lock:
            pass

    def _work(self) -> None:
        while not self._stop.is_set():
            targets = self._targets
            for name in targets:
                with self._lock:
                    # One that was retired since this turn began gets nothing.
                    if name in self._targets:
                        self._send(name)
                if self._stop.wait(self._every / len(targets)):
                    return
            if not targets:
                self._stop.wait(self._every)

    def _send(self, name: Name) -> None:
        number = next(self._numbers)
        message = Message(
            id_obj=self._ids.get_id(Priority.NORMAL),
            topics=name.topic,
            sender=AgentTag(id="producer", name="producer"),
            payload={"number": number},
            format=MessageConstants.RAW_JSON_FORMAT,
        )
        message.topic_published_to = name.topic
        give_up = time.monotonic() + _AWAY
        while True:
            try:
                self._backend.store_message(name.guild, f"{name.guild}:{name.topic}", message)
            except Exception as error:
                if time.monotonic() > give_up or self._stop.wait(_AGAIN):
                    self.faults.append(f"request {number} to {name} was not sent: {error}")
                    return
            else:
                self._messages.append(message.id)
                self.requests.append(Request(str(name), number, boottime()))
                return

    def answers(self, guilds: set[str], since: int = 0) -> Answers:
        """Who answered which number, of the agents of these guilds, as the bus remembers.

        Args:
            guilds: Whose agents.
            since: Id of a message; answers that are not younger do not count.
        """
        found: dict[tuple[str, int], list[int]] = defaultdict(list)
        for guild in guilds:
            for message in self._backend.get_messages_for_topic_since(f"{guild}:{_ANSWERS}", since):
                payload = message.payload
                if "answers" in payload:
                    key = f"{guild}/{payload['agent']}", int(str(payload["answers"]))
                    found[key].append(int(str(payload["pid"])))
        return found

    def wait_for_answers(self, names: list[Name], since: int, seconds: float) -> None:
        """Waits until each of these agents has answered something that was sent since a moment.

        Args:
            names: The agents.
            since: The moment, nanoseconds of CLOCK_BOOTTIME.
            seconds: Longest wait.

        Raises:
            NeverHappened: Some did not in time.
        """
        guilds = {name.guild for name in names}
        first, message = self._before(since)

        def look() -> tuple[bool | None, object]:
            asked = {(r.agent, r.number) for r in self.requests[first:] if r.sent >= since}
            answered = {agent for agent, _ in asked & set(self.answers(guilds, message))}
            silent = sorted({str(name) for name in names} - answered)
            return (None if silent else True), f"no answer of {silent}"

        wait_until("every agent to answer", look, seconds, _LOOK_EVERY)

    def wait_for_all(self, names: list[Name], seconds: float) -> None:
        """Waits until these agents have answered everything. Send them no more before.

        Raises:
            NeverHappened: Some did not in time.
        """
        wanted = {str(name) for name in names}
        open_requests = [(r.agent, r.number, r.sent) for r in self.requests if r.agent in wanted]

        def look() -> tuple[bool | None, object]:
            if open_requests:
                _, message = self._before(open_requests[0][2])
                answers = self.answers({name.guild for name in names}, message)
                open_requests[:] = [r for r in open_requests if (r[0], r[1]) not in answers]
            return (None if open_requests else True), f"{len(open_requests)} open, such as {open_requests[:5]}"

        wait_until("every request to be answered", look, seconds, _LOOK_EVERY)

    def _before(self, moment: int) -> tuple[int, int]:
        """A request that was sent a while before a moment, so that no answer to a later one is older than it: its index
        and the id of its message, or zeros."""
        index = bisect_left(self.requests, moment - _WHILE, key=lambda request: request.sent) - 1
        return (index, self._messages[index]) if index >= 0 else (0, 0)
