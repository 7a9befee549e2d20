"""How the process of an agent ends: in order, or because nothing handles its messages any more.

Either way functions registered with `atexit` run, for a bounded time, and what is buffered is written. Threads that the
agent left behind are not waited for.
"""

import atexit
import contextlib
import os
import sys
import threading
import time
import traceback
from typing import NoReturn

from rustic_ai.k8s.runtime.host import HostSocket, describe

# The exit code of a process that ended itself because it could not handle messages any more (EX_SOFTWARE of sysexits.h).
BROKEN = 70
# Seconds for functions registered with atexit.
_ATEXIT = 2.0


class Ending:
    """Ends this process on its own account, once."""

    def __init__(self, host: HostSocket) -> None:
        """Remembers to whom to report."""
        self._host = host
        self._begun = threading.Lock()
        self._pid = os.getpid()

    @property
    def is_ours(self) -> bool:
        """False in a process that the agent has forked: it may end as it likes, it is not the agent."""
        return os.getpid() == self._pid

    def die(self, what: str, error: BaseException | None = None) -> NoReturn:
        """Reports to the host why, and ends the process.

        Args:
            what: What happened, in words that the error's description may follow.
            error: The error, if there was one.
        """
        if not self._begun.acquire(blocking=False):
            # Another thread ends it already.
            park()
        _limit(BROKEN)
        if error is not None:
            with contextlib.suppress(Exception):
                traceback.print_exception(error)
        reason = what if error is None else f"{what} {describe(error)}"
        print(f"the agent's process ends: {reason}", file=sys.stderr)
        self._host.ended(reason)
        _exit_functions()
        _flush()
        os._exit(BROKEN)


def leave(code: int) -> int:
    """Runs what is registered with `atexit`; returns the exit code, for the process to end with.

    Past the limit the process ends at once, with the same code.
    """
    _limit(code)
    _exit_functions()
    _flush()
    return code


def park() -> NoReturn:
    """Keeps this thread until the process ends."""
    while True:
        threading.Event().wait()


def _exit_functions() -> None:
    # Errors of single functions are printed by it; nothing that they raise may keep the process.
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()


def _limit(code: int) -> None:
    """From now on the process has `_ATEXIT` seconds."""

    def cut() -> None:
        time.sleep(_ATEXIT)
        with contextlib.suppress(OSError):
            # Past Python's own buffers, whose lock may be held by what takes too long.
            os.write(2, f"functions registered with atexit took longer than {_ATEXIT} s and were cut\n".encode())
        os._exit(code)

    with contextlib.suppress(RuntimeError):
        # No thread can be made: it ends without a limit, and the host has one of its own.
        threading.Thread(target=cut, name="exit-limit", daemon=True).start()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # The agent may have closed or replaced it.
        with contextlib.suppress(Exception):
            stream.flush()
