"""SIGTERM as something that the main thread waits for, without ever missing it.

A `threading.Event` set by the handler would not do: a handler runs in the main thread between any two instructions, also
while that thread holds the event's own lock to wait for it, and setting it would then wait for ever. And a signal may be
taken by another thread (after a freeze, whichever wakes first): the interpreter notes it, and the main thread sleeps on.
Python's wakeup descriptor has neither problem: the signal itself writes to it, in whatever thread.

An agent may set a handler of its own until it is ready, in its module, its `__init__` or with asyncio's
`add_signal_handler`: it is kept, and called once SIGTERM has come, but what SIGTERM does is decided here.
"""

from collections.abc import Callable
import contextlib
import logging
import os
import select
import signal
import sys
from typing import Any

logger = logging.getLogger(__name__)


class StoppedEarly(BaseException):
    """SIGTERM came before the agent was ready: whatever is being built is left."""


class Sigterm:
    """SIGTERM of this process. Only the main thread may use it."""

    def __init__(self) -> None:
        """From now on SIGTERM raises StoppedEarly, once, until `hold`."""
        self._came = False
        self._raises = True
        # What an agent had signals do before us.
        self._theirs: Callable[..., Any] | None = None
        self._their_descriptor = -1
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        signal.signal(signal.SIGTERM, self._handle)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        # What the agent forks, with multiprocessing for one, ends by SIGTERM like any process.
        os.register_at_fork(after_in_child=self._forked)

    def hold(self) -> None:
        """From now on SIGTERM raises nothing and is kept for `wait`, whatever the agent has it do."""
        self._raises = False
        found = signal.getsignal(signal.SIGTERM)
        if found != self._handle:
            self._theirs = found if callable(found) else None
            signal.signal(signal.SIGTERM, self._handle)
        # Only now: whatever was built before may have set its own, as asyncio does.
        before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._their_descriptor = -1 if before == self._writer else before
        # It may have come while the agent's own handler was in charge.
        self._came = self._came or signal.SIGTERM in self._read()

    def wait(self, look: Callable[[], None], every: float) -> None:
        """Returns when SIGTERM has come, at once when it came before.

        Args:
            look: What is done meanwhile.
            every: How often, in seconds.
        """
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        # Not missed between the look and the read: it leaves a byte to read.
        while not self._came:
            if poll.poll(every * 1000):
                self._read()
            else:
                look()

    def pass_on(self) -> None:
        """Calls what the agent had SIGTERM do. What it raises is logged and stops nothing: the process ends anyway."""
        if self._their_descriptor >= 0:
            # An event loop of the agent's waits for its byte, wherever it runs.
            with contextlib.suppress(OSError):
                os.write(self._their_descriptor, bytes([signal.SIGTERM]))
        if self._theirs is not None:
            try:
                self._theirs(signal.SIGTERM, sys._getframe())
            except BaseException:
                logger.warning("the agent's own handler of SIGTERM raised", exc_info=True)

    def _read(self) -> bytes:
        try:
            return os.read(self._reader, 4096)
        except BlockingIOError:
            return b""

    def _handle(self, *_: object) -> None:
        self._came = True
        if self._raises:
            # What is left behind in order must not be interrupted again.
            self._raises = False
            raise StoppedEarly

    def _forked(self) -> None:
        signal.set_wakeup_fd(-1)
        if signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, self._theirs or signal.SIG_DFL)
