"""Ids of messages that no two agents of a guild make twice, although there are only 255 machine ids.

An id of Rustic AI has a priority, the time in milliseconds, a machine id and a sequence number of 12 bits, which begins anew
with every millisecond. Agents that share a machine id would make the same ids in the same millisecond. So each has a share of
the sequence numbers:

```text
0 … 63            │ 64 … 127 │ 128 … 191 │ … │ 4032 … 4095
others than agents│  share 0 │  share 1  │   │   share 62
```

The first numbers are left to whoever else uses machine ids, such as a program that writes to a guild from outside. All
generators of a process share what they have given out, also between threads. When the clock goes back, ids go on from
the last one: Rustic AI's own generator would refuse to make any until the clock has caught up.
"""

import threading
import time

from rustic_ai.core.messaging.core import dead_letter
from rustic_ai.core.utils import GemstoneGenerator, GemstoneID
from rustic_ai.core.utils.priority import Priority

# Sequence numbers of a share, and shares of a machine id.
SIZE = 64
SHARES = 4096 // SIZE - 1


class _Numbers:
    """What was given out for each machine id, in this process."""

    def __init__(self, share: int) -> None:
        self._first = (share + 1) * SIZE
        self._lock = threading.Lock()
        self._last: dict[int, tuple[int, int]] = {}

    def next(self, machine_id: int) -> tuple[int, int]:
        """A time in milliseconds and a sequence number, beyond all before."""
        with self._lock:
            moment, place = self._last.get(machine_id, (0, 0))
            now = _now()
            if now > moment:
                moment, place = now, 0
            elif place + 1 < SIZE:
                place += 1
            else:
                # Of this millisecond there are none left. If the clock went back there is no use in waiting for the next.
                while now == moment:
                    now = _now()
                moment, place = max(now, moment + 1), 0
            self._last[machine_id] = moment, place
            return moment, self._first + place


def install(machine_id: int, share: int) -> None:
    """From now on this process makes the ids of one agent.

    Args:
        machine_id: The agent's.
        share: Which share of it, from 0 on.

    Raises:
        ValueError: There is no such share.
    """
    if not 0 <= share < SHARES:
        raise ValueError(f"share is {share}; a machine id has {SHARES} shares, from 0 on")
    numbers = _Numbers(share)

    def get_id(self: GemstoneGenerator, priority: Priority) -> GemstoneID:
        """Generate a new GemstoneID."""
        moment, number = numbers.next(self.machine_id)
        self.last_timestamp, self.sequence_number = moment, number
        return GemstoneID(priority, moment, self.machine_id, number)

    GemstoneGenerator.get_id = get_id
    # All processes of all guilds make dead letters by machine id 0.
    dead_letter._DEAD_LETTER_GENERATOR = GemstoneGenerator(machine_id)


def _now() -> int:
    return time.time_ns() // 1_000_000
