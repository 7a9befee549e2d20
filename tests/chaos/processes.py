"""Looks at the process table."""

from collections.abc import Iterable
import os
from pathlib import Path
import select
import signal
import threading

from chaos.network import boottime
from chaos.waiting import wait_until

_PATIENCE = 10.0
# How long a thread that looks for deaths may take to notice that it shall stop.
_DEATHS_EVERY_MS = 100
# Stopped, or ended and not reaped: either way it does nothing.
_STILL = ("T", "t", "Z", "X", "")


def state(pid: int) -> str:
    """State letter of a process, as in `ps`; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def lives(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    return state(pid) not in ("", "Z", "X")


def name(pid: int) -> str:
    """Short name of a process; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def send(pid: int, what: signal.Signals) -> None:
    """Sends a signal; to a process that is gone, nothing."""
    try:
        os.kill(pid, what)
    except ProcessLookupError:
        pass


def stopped(pids: Iterable[int]) -> tuple[bool | None, object]:
    """For `wait_until`: whether all these processes do nothing."""
    moving = {pid: state(pid) for pid in pids}
    moving = {pid: letter for pid, letter in moving.items() if letter not in _STILL}
    return (None if moving else True), moving


def wait_until_still(pids: list[int]) -> None:
    """Waits until stopped processes have really stopped."""
    wait_until("the processes to stop", lambda: stopped(pids), _PATIENCE)


class Deaths:
    """Sees when processes end, to the millisecond, until `stop`."""

    def __init__(self, pids: Iterable[int]) -> None:
        """Begins to look."""
        self.seen: dict[int, int] = {}
        self._descriptors: dict[int, int] = {}
        self._stop = threading.Event()
        for pid in pids:
            try:
                self._descriptors[os.pidfd_open(pid)] = pid
            except ProcessLookupError:
                pass
        self._thread = threading.Thread(target=self._work, name="deaths", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Looks no more; `seen` is complete."""
        self._stop.set()
        self._thread.join()
        for descriptor in self._descriptors:
            os.close(descriptor)

    def _work(self) -> None:
        poll = select.poll()
        for descriptor in self._descriptors:
            poll.register(descriptor, select.POLLIN)
        while not self._stop.is_set():
            for descriptor, _ in poll.poll(_DEATHS_EVERY_MS):
                self.seen[self._descriptors[descriptor]] = boottime()
                poll.unregister(descriptor)
