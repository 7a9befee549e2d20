"""The state of a process and its interpreter, fact by fact: what an import may change and a fork would hand on.

Looks only. Every fact is compared for equality; one that is a mapping is compared entry by entry.
"""

import atexit
from collections.abc import Callable
import contextvars
import ctypes
import gc
import locale
import logging
import multiprocessing
import os
import random
import resource
import signal
import socket
import sys
import threading
import time
from typing import Any

_libc = ctypes.CDLL(None)
_SIGNALS = [number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)]
_LIMITS = sorted(name for name in dir(resource) if name.startswith("RLIMIT_"))
# Lines of /proc/self/status that change by themselves.
_RESTLESS = ("Vm", "Rss", "State", "Threads", "voluntary", "nonvoluntary", "Hugetlb", "FDSize", "SigPnd", "ShdPnd", "SigQ")
_TOOLS = range(6)
# There is nothing to look at yet: what an import makes of it is its own.
ABSENT = object()


def descriptors() -> dict[int, str]:
    """Open descriptors, and what they are."""
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:
            # That of the listing itself is gone by now.
            continue
    return found


def threads() -> list[str]:
    """Names of all threads, those of Python and those that others have made."""
    known = {thread.native_id: thread.name for thread in threading.enumerate()}
    tasks = sorted(int(task) for task in os.listdir("/proc/self/task"))
    return [known.get(task) or _name_of_task(task) for task in tasks]


def _name_of_task(task: int) -> str:
    try:
        with open(f"/proc/self/task/{task}/comm") as comm:
            return comm.read().strip()
    except OSError:
        return "?"


def children() -> list[str]:
    """Process ids of this process's children, whichever thread has them."""
    found: list[str] = []
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/children") as children:
            found.extend(children.read().split())
    return sorted(found)


def _shared_memory() -> set[str]:
    """Mappings that a fork would share for good, such as those behind locks of multiprocessing."""
    with open("/proc/self/maps") as maps:
        return {line.split(maxsplit=5)[0] for line in maps if line.split(maxsplit=2)[1].endswith("s")}


def _status() -> dict[str, str]:
    """Identities, capabilities, processors and signal masks, as the kernel shows them."""
    with open("/proc/self/status") as status:
        fields = [line.rstrip("\n").partition(":\t") for line in status]
    return {name: value for name, _, value in fields if not name.startswith(_RESTLESS)}


def _handlers() -> dict[str, str]:
    def name(number: int) -> str:
        try:
            return signal.Signals(number).name
        except ValueError:
            return str(number)

    return {name(number): repr(signal.getsignal(number)) for number in _SIGNALS}


def _timers() -> tuple[Any, ...]:
    try:
        with open("/proc/self/timers") as timers:
            posix = timers.read()
    except OSError:
        # Kernels without checkpoint and restore do not show them.
        posix = ""
    return posix, *(signal.getitimer(which) for which in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF))


def _environment() -> dict[str, str]:
    """The environment as C sees it, which is not always what `os.environ` says."""
    pointer = ctypes.POINTER(ctypes.c_char_p).in_dll(_libc, "environ")
    found: dict[str, str] = {}
    place = 0
    while pointer and (entry := pointer[place]) is not None:
        name, _, value = entry.decode(errors="surrogateescape").partition("=")
        found[name] = value
        place += 1
    return found


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _log_settings() -> dict[str, Any]:
    root = logging.root
    return {
        "disabled below": root.manager.disable,
        "levels": tuple(sorted(logging.getLevelNamesMapping().items())),
        "class of loggers": logging.getLoggerClass(),
        "factory of records": logging.getLogRecordFactory(),
        "last resort": id(logging.lastResort),
        "errors raise": logging.raiseExceptions,
    }


def _hooks() -> dict[str, int]:
    names = ("excepthook", "displayhook", "unraisablehook", "breakpointhook", "stdin", "stdout", "stderr", "argv")
    found = {f"sys.{name}": id(getattr(sys, name)) for name in names}
    found["threading.excepthook"] = id(threading.excepthook)
    lists = {"sys.meta_path": sys.meta_path, "sys.path_hooks": sys.path_hooks, "gc.callbacks": gc.callbacks}
    for name, entries in lists.items():
        found.update({f"{name}[{place}]": id(entry) for place, entry in enumerate(entries)})
    return found


def _tracing() -> tuple[Any, ...]:
    tools = tuple(sys.monitoring.get_tool(number) for number in _TOOLS)
    return sys.gettrace(), sys.getprofile(), threading.gettrace(), threading.getprofile(), tools


def _randomness_of_numpy() -> object:
    numpy = sys.modules.get("numpy.random")
    return repr(numpy.get_state()) if numpy else ABSENT


def _decimals() -> object:
    decimal = sys.modules.get("decimal")
    return (repr(decimal.getcontext()), repr(decimal.DefaultContext)) if decimal else ABSENT


def _event_loop() -> tuple[int, ...]:
    events = sys.modules.get("asyncio.events")
    policy = getattr(events, "_event_loop_policy", None)
    # Asking for the policy makes one, and asking for the loop another; these do neither.
    loop = getattr(getattr(policy, "_local", None), "_loop", None)
    return id(policy) if policy is not None else 0, id(loop) if loop is not None else 0


FACTS: dict[str, Callable[[], Any]] = {
    "open descriptors": descriptors,
    "threads": threads,
    "child processes": children,
    "shared memory": _shared_memory,
    "signal handlers": _handlers,
    "status of the process": _status,
    "timers": _timers,
    "environment": _environment,
    "os.environ": lambda: dict(os.environ),
    "working directory": os.getcwd,
    "umask": _umask,
    "limits": lambda: {name: resource.getrlimit(getattr(resource, name)) for name in _LIMITS},
    "niceness": lambda: os.getpriority(os.PRIO_PROCESS, 0),
    "locale": lambda: locale.setlocale(locale.LC_ALL),
    "time zone": lambda: (time.tzname, time.timezone, time.altzone, time.daylight),
    "settings of logging": _log_settings,
    "default timeout of sockets": socket.getdefaulttimeout,
    "recursion limit": sys.getrecursionlimit,
    "switch interval": sys.getswitchinterval,
    "largest number as text": sys.get_int_max_str_digits,
    "stack size of threads": threading.stack_size,
    "garbage collector": lambda: (gc.get_threshold(), gc.isenabled(), gc.get_debug()),
    "hooks": _hooks,
    "tracing": _tracing,
    "module search path": lambda: list(sys.path),
    "functions at exit": atexit._ncallbacks,  # type: ignore[attr-defined]
    "random state": lambda: hash(random.getstate()),
    "random state of numpy": _randomness_of_numpy,
    "decimal context": _decimals,
    "context variables": lambda: {variable.name: id(value) for variable, value in contextvars.copy_context().items()},
    "event loop": _event_loop,
    # `allow_none`: asking must not decide.
    "start method of multiprocessing": lambda: multiprocessing.get_start_method(allow_none=True),
}
