"""Which messages of a topic a client has handled lately: none is handled twice, and what is missing was missed.

rusticai-redis keeps one position for each client and topic: the id of the message that was handled last. Ids begin with the
priority and go on with the time at which the sender made them, so a message may come after one with a greater id: of another
priority, of another sender, or of one that could not reach the bus for a while. A position alone passes such a message. So
ids that were handled are remembered one by one, the latest of them in a record on the bus, for the next life.

```text
ids of a topic, in the order in which they were handled
  forgotten: what was made before these is taken for handled ──▶│ remembered │──▶ now
```
"""

from collections.abc import Callable
from dataclasses import dataclass, field
import threading
import time

from rustic_ai.core.utils import GemstoneID

# Ids that one life remembers of a topic, and that the record keeps for the next one.
_REMEMBERED, RECORDED = 4096, 96
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
    """

    position: int = 0
    ids: list[int] = field(default_factory=list)


class Handled:
    """What one client has handled of one topic. Used by the threads that listen and handle."""

    def __init__(self, load: Callable[[], Earlier] = Earlier) -> None:
        """Knows nothing.

        Args:
            load: Reads what earlier lives have left, once, when it is asked for first.
        """
        self._load = load
        self._loading = threading.Lock()
        self._earlier: Earlier | None = None
        # In the order in which they were handled, and whether nothing has to be written to the record.
        self._ids: dict[int, bool] = {}
        # When the id that was forgotten last was made, in milliseconds.
        self._forgotten = 0
        self._position = 0
        self._left_out = 0

    @property
    def earlier(self) -> Earlier:
        """What earlier lives have left on the bus."""
        if self._earlier is None:
            with self._loading:
                if self._earlier is None:
                    earlier = self._load()
                    self._position = earlier.position
                    self._ids.update(dict.fromkeys(earlier.ids, True))
                    if len(earlier.ids) >= RECORDED:
                        self._forgotten = made(earlier.ids[0]) - 1
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
        is_before = message_id <= earlier.position
        return self.lacks(message_id) and (bool(earlier.ids) if is_before else made(message_id) >= late)

    def add(self, message_id: int, *, again: bool = False) -> None:
        """Remembers that a message was handled.

        Args:
            message_id: Its id.
            again: To be handled again by the next life does no harm: it is left out of the record, unless many were left out since
                the last one.
        """
        if message_id in self:
            return
        self._left_out = (self._left_out + 1) % _LEFT_OUT if again else 0
        self._ids[message_id] = self._left_out > 0
        if len(self._ids) > _REMEMBERED:
            oldest = next(iter(self._ids))
            self._forgotten = made(oldest)
            del self._ids[oldest]

    def record(self, message_id: int) -> int | None:
        """Takes a message that was handled into the record, and moves the position to it, unless that lies beyond it already.

        Returns:
            The position; None: there is nothing to write.
        """
        self.add(message_id)
        if self._ids[message_id]:
            return None
        self._ids[message_id] = True
        # One that lies in the future is of a sender whose clock is wrong.
        if not made(message_id) < made(self._position) <= time.time_ns() // 1_000_000:
            self._position = message_id
        return self._position

    def since(self) -> int:
        """When the earliest of the latest messages was made, in milliseconds; 0: there was none."""
        earlier = self.earlier
        return min(made(each) for each in list(self._ids)[-_LATEST:] or [earlier.position])


def made(message_id: int) -> int:
    """When a message was made, by its sender's clock, in milliseconds; 0 of no message."""
    return GemstoneID.from_int(message_id).timestamp if message_id else 0
