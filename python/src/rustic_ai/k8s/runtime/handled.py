"""Which messages of a topic a client has handled lately: none is handled twice, and what is missing was missed.

rusticai-redis keeps one position for each client and topic: the id of the message that was handled last. Ids begin with the
priority and go on with the time at which the sender made them, so a message may come after one with a greater id: of another
priority, of another sender, or of one that could not reach the bus for a while. A position alone passes such a message. So
ids that were handled are remembered one by one, the latest of them in a record on the bus, for the next life.

```text
ids of a topic, in the order in which they were handled
  forgotten: what was made up to the floor is taken for handled ──▶│ remembered │──▶ now
```

An id is forgotten only if it was made before everything that was delivered and waits to be handled, and only when all that
earlier lives have left was delivered. Messages are not handled in the order
in which they were made: a replay takes the urgent ones first, and new ones come between. Without this rule the floor would pass a message
that waits, and a life that ends there would lose it.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
import heapq
import threading
import time

from rustic_ai.core.utils import GemstoneID

# Ids that one life remembers of a topic, and that the record keeps for the next one, at least.
_REMEMBERED, RECORDED = 4096, 96
# The record is cut when so many ids were added to it: what Redis keeps as a compact list has 128.
_CUT = 32
# One of so many that might be handled again is recorded all the same.
_LEFT_OUT = 32
# Ids whose time says when the latest messages came; more than one, as clocks of senders differ.
_LATEST = 8


@dataclass(frozen=True)
class Earlier:
    """What earlier lives have left on the bus.

    Attributes:
        position: From where the backend replays; 0: there is none, the client is new.
        ids: The record, in the order in which they were handled. Empty beside a position: of a version that kept none.
        floor: What was made up to then was handled, in milliseconds.
    """

    position: int = 0
    ids: list[int] = field(default_factory=list)
    floor: int = 0


@dataclass(frozen=True)
class Entry:
    """What is to be written to the record.

    Attributes:
        message_id: The id to add.
        position: The position.
        gone: Ids that the record need not keep any longer.
        floor: What was made up to then was handled, in milliseconds.
    """

    message_id: int
    position: int
    gone: list[int]
    floor: int


class Handled:
    """What one client has handled of one topic. Used by the threads that listen and handle."""

    def __init__(self, load: Callable[[], Earlier] = Earlier, *, settled: bool = True) -> None:
        """Knows nothing.

        Args:
            load: Reads what earlier lives have left, once, when it is asked for first.
            settled: Whether all messages that earlier lives have left were delivered; whoever delivers them sets it then.
        """
        self._load = load
        self._loading = threading.Lock()
        self._earlier: Earlier | None = None
        # In the order in which they were handled, and whether nothing has to be written to the record.
        self._ids: dict[int, bool] = {}
        # What was made up to then was handled, in milliseconds, as far as this life and the record remember.
        self._forgotten, self._floor = 0, 0
        self._position = 0
        self._left_out = 0
        # Ids in the record, by turn.
        self._recorded: list[int] = []
        # What was handed to the thread that handles, and how often: some messages come twice, as new ones and by a replay.
        self._queued: Counter[int] = Counter()
        # When those were made that waited to be handled at first; some were since.
        self._made: list[tuple[int, int]] = []
        self._changing = threading.Lock()
        self.settled = settled

    @property
    def earlier(self) -> Earlier:
        """What earlier lives have left on the bus."""
        if self._earlier is None:
            with self._loading:
                if self._earlier is None:
                    earlier = self._load()
                    self._position = earlier.position
                    self._ids.update(dict.fromkeys(earlier.ids, True))
                    self._recorded = list(earlier.ids)
                    self._forgotten = self._floor = earlier.floor
                    self._earlier = earlier
        return self._earlier

    def __contains__(self, message_id: int) -> bool:
        """Whether a message was handled, as far as that is remembered."""
        return self.earlier is not None and message_id in self._ids

    def lacks(self, message_id: int) -> bool:
        """Whether a message that the topic has kept was never handled."""
        return message_id not in self and made(message_id) > self._forgotten

    def is_left_out(self, message_id: int, late: int) -> bool:
        """Whether the backend does not replay a message as it subscribes, although it was never handled.

        Args:
            message_id: Its id.
            late: From when on messages may come too late for the backend to see them, in milliseconds.
        """
        earlier = self.earlier
        if not self.lacks(message_id):
            return False
        # It replays what comes after the position, by time and by id: ids begin with the priority.
        if message_id > earlier.position and made(message_id) >= made(earlier.position):
            return made(message_id) >= late
        return bool(earlier.ids)

    def delivered(self, message_id: int) -> None:
        """A message was handed to the thread that handles, which comes to it in its turn."""
        known = message_id in self
        with self._changing:
            self._queued[message_id] += 1
            if not known and self._queued[message_id] == 1:
                heapq.heappush(self._made, (made(message_id), message_id))

    def _before_all_that_waits(self) -> float:
        """When the earliest of the messages that wait was made; 0 as long as some are not known."""
        if not self.settled:
            return 0
        while self._made and (self._made[0][1] in self._ids or self._made[0][1] not in self._queued):
            heapq.heappop(self._made)
        return self._made[0][0] if self._made else float("inf")

    def add(self, message_id: int, *, again: bool = False) -> None:
        """Remembers that a message was handled.

        Args:
            message_id: Its id.
            again: To be handled again by the next life does no harm: it is left out of the record, unless many were left out since
                the last one.
        """
        known = message_id in self
        with self._changing:
            if known:
                return
            self._left_out = (self._left_out + 1) % _LEFT_OUT if again else 0
            self._ids[message_id] = self._left_out > 0
            while len(self._ids) > _REMEMBERED:
                oldest = next(iter(self._ids))
                if oldest in self._queued or made(oldest) >= self._before_all_that_waits():
                    break
                self._forgotten = max(self._forgotten, made(oldest))
                del self._ids[oldest]

    def record(self, message_id: int) -> Entry | None:
        """Takes a message that the thread which handles is done with into the record, and moves the position to it, unless that lies beyond it already.

        Returns:
            What is to be written; None: nothing is.
        """
        self.add(message_id)
        with self._changing:
            self._queued[message_id] -= 1
            if self._queued[message_id] <= 0:
                del self._queued[message_id]
            if self._ids.get(message_id, True):
                return None
            self._ids[message_id] = True
            self._recorded.append(message_id)
            # One that lies in the future is of a sender whose clock is wrong.
            if not made(message_id) < made(self._position) <= time.time_ns() // 1_000_000:
                self._position = message_id
            return Entry(message_id, self._position, self._cut(), self._floor)

    def _cut(self) -> list[int]:
        """Ids that the record need not keep: the earliest, as far as they were made before everything that waits."""
        if len(self._recorded) < RECORDED + _CUT or len(self._recorded) % _CUT:
            return []
        earliest = self._before_all_that_waits()
        old, latest = self._recorded[:-RECORDED], self._recorded[-RECORDED:]
        gone = [each for each in old if made(each) < earliest]
        if gone:
            self._recorded = [each for each in old if made(each) >= earliest] + latest
            self._floor = max(self._floor, *map(made, gone))
        return gone

    def since(self) -> int:
        """When the earliest of the latest messages was made, in milliseconds; 0: there was none."""
        earlier = self.earlier
        return min(made(each) for each in list(self._ids)[-_LATEST:] or [earlier.position])


def made(message_id: int) -> int:
    """When a message was made, by its sender's clock, in milliseconds; 0 of no message."""
    return GemstoneID.from_int(message_id).timestamp if message_id else 0
