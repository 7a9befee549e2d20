"""Forks a process whose parent is our own parent.

agent-host must be the parent of its agents: only a parent learns an exit status. So the child is forked by a process in the
middle that ends at once; the nearest subreaper, agent-host, adopts it then.

    zygote ──clone──▶ middle ──fork──▶ child
                        └ ends: the child is agent-host's

The fork is the C library's own, so that everything that was registered to happen at a fork happens, in Python and in C: generators of
random numbers seed anew, threads of libraries are put in order. The middle shares the zygote's memory and runs while
the zygote waits for it (clone(2) with CLONE_VM and CLONE_VFORK), on a stack of its own: it costs next to nothing, where a
second fork would copy the page tables twice. The child goes on on a copy of that stack. Where this is not known to work the middle is
forked too.
"""

from collections.abc import Callable
import ctypes
import errno
import mmap
import os
import platform
import signal
import sys
from typing import NoReturn

# From linux/sched.h and asm-generic/mman-common.h.
_CLONE_VM, _CLONE_VFORK = 0x00000100, 0x00004000
_MAP_NORESERVE, _MAP_STACK = 0x04000, 0x20000
_MADV_NOHUGEPAGE = 15
_PROT_NONE = 0
# As large as that of a main thread usually may become; only what is used takes memory.
_STACK, _GUARD = 8 << 20, 64 << 10
_ALIGNMENT = 16
# Machines whose stacks grow downwards, which is where the C library's `clone` wants the end of one.
_KNOWN = ("x86_64", "aarch64")

# Calls that keep the interpreter's lock, as a fork must.
_libc = ctypes.PyDLL(None, use_errno=True)
_Function = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)


def fork_sibling(work: Callable[[], NoReturn]) -> int:
    """Forks a child of our parent, in which `work` runs and never returns.

    Returns:
        Its process id. When this returns, our parent is its parent.

    Raises:
        OSError: The system has no room for another process.
    """
    if platform.machine() in _KNOWN and sys.version_info < (3, 14):
        # Later interpreters look where the main thread's stack ends.
        return _by_clone(work)
    return _fork_twice(work)


class _Stack:
    """A stack for the middle process, and so for the child. One for each process: the child's own lies in its parent's."""

    _of: tuple[int, "_Stack"] | None = None

    def __init__(self) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_STACK | _MAP_NORESERVE
        self._memory = mmap.mmap(-1, _GUARD + _STACK, flags=flags)
        self._begin = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        _libc.mprotect(ctypes.c_void_p(self._begin), ctypes.c_size_t(_GUARD), _PROT_NONE)
        _libc.madvise(ctypes.c_void_p(self._begin), ctypes.c_size_t(_GUARD + _STACK), _MADV_NOHUGEPAGE)

    @classmethod
    def mine(cls) -> "_Stack":
        if cls._of is None or cls._of[0] != os.getpid():
            cls._of = (os.getpid(), cls())
        return cls._of[1]

    def end(self) -> int:
        return (self._begin + _GUARD + _STACK) & -_ALIGNMENT


def _by_clone(work: Callable[[], NoReturn]) -> int:
    # Written by the middle process, whose memory is ours.
    forked: list[int] = []
    failed: list[OSError] = []

    def middle(_argument: object) -> int:
        # In a session of its own before it exists: whoever ends the zygote's group must not end its child.
        os.setsid()
        try:
            pid = os.fork()
        except OSError as error:
            failed.append(error)
            return 1
        if pid == 0:
            work()
        forked.append(pid)
        return 0

    function = _Function(middle)
    flags = _CLONE_VM | _CLONE_VFORK | signal.SIGCHLD
    pid = _libc.clone(function, ctypes.c_void_p(_Stack.mine().end()), ctypes.c_int(flags), None)
    if pid < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    os.waitpid(pid, 0)
    if failed:
        raise failed[0]
    if not forked:
        raise OSError(errno.ECHILD, "the process in the middle ended early")
    return forked[0]


def _fork_twice(work: Callable[[], NoReturn]) -> int:
    reader, writer = os.pipe()
    try:
        middle = os.fork()
    except OSError:
        os.close(reader)
        os.close(writer)
        raise
    if middle == 0:
        _be_the_middle(work, reader, writer)
    os.close(writer)
    with open(reader, "rb") as stream:
        text = stream.read()
    # When the middle process is gone, the subreaper is the parent.
    os.waitpid(middle, 0)
    pid = int(text or 0)
    if pid <= 0:
        raise OSError(-pid or errno.ECHILD, os.strerror(-pid) if pid else "the process in the middle ended early")
    return pid


def _be_the_middle(work: Callable[[], NoReturn], reader: int, writer: int) -> NoReturn:
    """Forks, sends the process id or, as a negative number, why not, and ends."""
    os.setsid()
    try:
        pid = os.fork()
    except OSError as error:
        pid = -(error.errno or errno.EAGAIN)
    if pid == 0:
        os.close(reader)
        os.close(writer)
        work()
    os.write(writer, str(pid).encode())
    os._exit(0)
