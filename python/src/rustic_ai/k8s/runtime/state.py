"""What an agent is at work on, in a page that it shares with agent-host: written with plain stores, so that it costs no
system call and outlives whatever ends the process.

The layout is described in `agent-host/src/runtime/state.rs`, which reads it.
"""

from enum import IntEnum
import mmap
import os

_SIZE = 4096
_MAGIC = int.from_bytes(b"rustate1", "little" if memoryview(b"\1\0").cast("H")[0] == 1 else "big")
_TOPIC, _MAX_TOPIC = 64, 1024
_SEQUENCE, _PHASE, _MESSAGE, _LENGTH, _BEATS = 1, 2, 3, 4, 5
_MASK = (1 << 64) - 1


class Phase(IntEnum):
    """Where the handling loop is."""

    WAITS = 0
    HANDLES = 1
    RETURNS = 2


def key(topic: str, message_id: int) -> tuple[bytes, int]:
    """A message as the page has it: the topic cut to the room there is, the id in 64 bits."""
    cut = topic.encode("utf-8", "replace")[:_MAX_TOPIC]
    # A whole number of characters, so that the host gives back what it read.
    return cut.decode("utf-8", "ignore").encode(), message_id & _MASK


class State:
    """The page. Who writes it holds the guard's lock, except for the beats."""

    def __init__(self, path: str) -> None:
        """Maps the file that agent-host has made.

        Args:
            path: Where it is; empty: nobody reads, and what is written goes nowhere.
        """
        self._page = _map(path) if path else mmap.mmap(-1, _SIZE)
        self._words = memoryview(self._page).cast("Q")
        self._topic = b""
        self._words[0] = _MAGIC

    def handles(self, topic: bytes, message_id: int) -> None:
        """A handler has a message."""
        words = self._words
        words[_SEQUENCE] += 1
        if topic != self._topic:
            self._page[_TOPIC : _TOPIC + len(topic)] = topic
            words[_LENGTH] = len(topic)
            self._topic = topic
        words[_MESSAGE] = message_id
        words[_PHASE] = Phase.HANDLES
        words[_SEQUENCE] += 1

    def rests(self, phase: Phase) -> None:
        """No handler has a message."""
        self._words[_SEQUENCE] += 1
        self._words[_PHASE] = phase
        self._words[_SEQUENCE] += 1

    @property
    def phase(self) -> Phase:
        """What the page says."""
        return Phase(self._words[_PHASE])

    def beat(self) -> None:
        """Python code runs. Only one thread may call it."""
        self._words[_BEATS] += 1


def _map(path: str) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return mmap.mmap(descriptor, _SIZE)
    finally:
        os.close(descriptor)
