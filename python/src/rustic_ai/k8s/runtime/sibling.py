"""Forks a process whose parent is our own parent.

agent-host must be the parent of its agents: only a parent learns an exit status, and only a parent's end can be the end
of its children (PDEATHSIG). Linux can do so in one step (clone with CLONE_PARENT). Where it refuses, or on machines
whose calling convention we do not know, the child is forked twice: when the process in the middle ends, the nearest
subreaper, agent-host, adopts its child. That costs a second copy of the page tables, several milliseconds.
"""

from collections.abc import Callable
import ctypes
import os
import platform
import signal
from typing import NoReturn

# From linux/sched.h and linux/prctl.h.
_CLONE_PARENT, _CLONE_CHILD_CLEARTID, _CLONE_CHILD_SETTID = 0x00008000, 0x00200000, 0x01000000
_PR_GET_TID_ADDRESS = 40
# Number of clone(2), and the place of its argument `child_tid`, which differ from machine to machine.
_CLONE = {"x86_64": (56, 3), "aarch64": (220, 4)}

# Calls that keep the interpreter's lock, as a fork must.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def fork_sibling(work: Callable[[], NoReturn]) -> int:
    """Forks a child of our parent, in which `work` runs and never returns.

    Returns:
        Its process id. When this returns, our parent is its parent.
    """
    tid = _tid_address()
    if tid and platform.machine() in _CLONE:
        pid = _clone(tid, work)
        if pid > 0:
            return pid
    return _fork_twice(work)


def _tid_address() -> int | None:
    """Where the C library keeps this thread's id: the kernel writes the child's there, as it does for `fork`."""
    address = ctypes.c_void_p()
    failed = _libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(address), 0, 0, 0)
    return None if failed else address.value


def _clone(tid: int, work: Callable[[], NoReturn]) -> int:
    number, place = _CLONE[platform.machine()]
    flags = _CLONE_PARENT | _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID | signal.SIGCHLD
    arguments = [ctypes.c_ulong(flags), *[ctypes.c_void_p()] * 4]
    arguments[place] = ctypes.c_void_p(tid)
    # What `os.fork` does around its system call: https://docs.python.org/3/c-api/sys.html#c.PyOS_AfterFork_Child
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = _libc.syscall(ctypes.c_long(number), *arguments)
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        work()
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    return pid


def _fork_twice(work: Callable[[], NoReturn]) -> int:
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        pid = os.fork()
        if pid == 0:
            work()
        os.write(writer, str(pid).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:
        pid = int(stream.read())
    # When the middle process is gone, the subreaper is the parent.
    os.waitpid(middle, 0)
    return pid
