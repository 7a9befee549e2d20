"""Waiting for a level, with a bound and the last thing seen."""

from collections.abc import Callable
import time

_LOOK_EVERY = 0.05


class NeverHappened(Exception):
    """What was waited for did not happen in time."""


def wait_until[T](
    what: str, look: Callable[[], tuple[T | None, object]], seconds: float, every: float = _LOOK_EVERY
) -> T:
    """Waits until `look` gives a value.

    Args:
        what: What is waited for, for the error's text.
        look: Gives a value or None, and what it saw.
        seconds: Longest wait.
        every: Seconds between two looks.

    Returns:
        The value.

    Raises:
        NeverHappened: There was no value in time; it says what was seen last.
    """
    give_up = time.monotonic() + seconds
    while True:
        value, seen = look()
        if value is not None:
            return value
        if time.monotonic() > give_up:
            raise NeverHappened(f"waited {seconds:.0f} s for {what}, last saw {seen}")
        time.sleep(every)
