"""What a forked process takes on before it runs a line of an agent's code: a Landlock domain and a seccomp filter.

agent-host makes both (`agent-host/src/confinement.rs`); the process only takes them on, for good. Who cannot does not go on.
"""

import ctypes
import os
import struct

_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 4, 22, 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
# The same on every machine.
_SYS_LANDLOCK_RESTRICT_SELF = 446
_INSTRUCTION = 8
_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def take_on(ruleset: int | None, program: str | None) -> None:
    """Confines this process and whatever it starts, and takes its capabilities.

    Args:
        ruleset: Descriptor of a Landlock ruleset, which is closed; None: the kernel has no Landlock.
        program: Its seccomp filter, in hexadecimal digits; None: it has that from its zygote.

    Raises:
        OSError: The kernel refuses.
    """
    _drop_capabilities()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if ruleset is not None:
        number, descriptor, flags = map(ctypes.c_long, (_SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0))
        _check(_libc.syscall(number, descriptor, flags))
        os.close(ruleset)
    if program is not None:
        instructions = bytes.fromhex(program)
        length = len(instructions) // _INSTRUCTION
        # A string in ctypes may hold zero bytes: the kernel is told its length.
        _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(_Program(length, instructions)))


def _drop_capabilities() -> None:
    """Gives up every capability: a root with capabilities reads what Landlock would keep from it.

    For good, because the process can gain none by executing something (`no_new_privs`).
    """
    header, none = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24)
    _check(_libc.capset(header, none))


def hint(paths: list[str]) -> str:
    """What to add to the error of an import: which of the places that modules are looked for in the agent may not read."""
    shut = [path for path in paths if _is_shut(path)]
    return f"; the agent may not read {', '.join(shut)}: name it in confinement.read_paths of the launch" if shut else ""


def _is_shut(path: str) -> bool:
    try:
        os.scandir(path or ".").close()
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def be_dumpable(dumpable: bool) -> None:
    """Sets whether other processes of this user may look into this one: never into a zygote, whose memory is every agent's."""
    _prctl(_PR_SET_DUMPABLE, int(dumpable))


def _prctl(option: int, *arguments: object) -> None:
    _check(_libc.prctl(option, *(arguments + (0, 0, 0))[:4]))


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"the process cannot be confined: {os.strerror(code)}")
