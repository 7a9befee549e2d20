"""SIGTERM as something that the main thread waits for, without ever missing it.

A `threading.Event` set by the handler would not do: a handler runs in the main thread between any two instructions, also
while that thread holds the event's own lock to wait for it, and setting it would then wait for ever. And a signal may be
taken by another thread (after a freeze, whichever wakes first): the interpreter notes it, and the main thread sleeps on.
Python's wakeup descriptor has neither problem: the signal itself writes to it, in whatever thread.
"""

import os
import signal


class StoppedEarly(BaseException):
    """SIGTERM came before the agent was ready: whatever is being built is left."""


class Sigterm:
    """SIGTERM of this process. Only the main thread may use it."""

    def __init__(self) -> None:
        """From now on SIGTERM raises StoppedEarly, once, until `hold`."""
        self._came = False
        self._raises = True
        signal.signal(signal.SIGTERM, self._handle)
        # What the agent forks, with multiprocessing for one, ends by SIGTERM like any process.
        os.register_at_fork(after_in_child=_die_of_it)

    def hold(self) -> None:
        """From now on SIGTERM raises nothing and is kept for `wait`."""
        self._raises = False

    def wait(self) -> None:
        """Returns when SIGTERM has come, at once when it came before."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        # Only now: whatever was built before may have set its own, as asyncio does.
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        # Not missed between the look and the read: from the line above on, it leaves a byte to read.
        while not self._came:
            os.read(reader, 1)

    def _handle(self, *_: object) -> None:
        self._came = True
        if self._raises:
            # What is left behind in order must not be interrupted again.
            self._raises = False
            raise StoppedEarly


def _die_of_it() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
