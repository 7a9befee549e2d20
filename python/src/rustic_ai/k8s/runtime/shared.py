"""Keeps memory shared between a zygote and its children.

A forked child shares every page with its parent until one of them writes to it, and CPython writes all the time: each
look at an object counts a reference *in* the object. Two things keep the writers away from what was imported, and
a third makes a fork cheap:

- `gc.freeze` takes all objects out of the collector's lists, so that a collection does not touch them;
- immortal objects (PEP 683) are not counted at all. CPython makes None, small numbers and the like immortal; here
  everything that is alive before the first fork becomes so. It would never be freed anyway: it belongs to the zygote.
- huge pages: a fork copies one entry of the page table for 2 MiB instead of 512. What a child writes to is still
  copied by the 4 KiB.

Measured: private dirty memory of an idle agent falls by a third (`docs/performance.md`).
"""

from collections.abc import Iterator
import ctypes
import gc
import sys
import sysconfig

# What `Include/refcount.h` calls _Py_IMMORTAL_REFCNT in CPython 3.12 and 3.13: the low 32 bits of the count, all set.
_IMMORTAL = 0xFFFFFFFF
_KNOWN_LAYOUTS = ((3, 12), (3, 13))
_HUGE_PAGE = 2 << 20
_MADV_COLLAPSE = 25
_libc = ctypes.CDLL(None, use_errno=True)


def share() -> None:
    """Makes everything that is alive fit to be shared. To be called before the first fork, with a single thread.

    A branch does it again, for what it has imported beyond its base: the collector does not show it frozen objects any
    more, and immortal ones are passed over.
    """
    gc.collect()
    if _can_make_immortal():
        _make_immortal()
    gc.freeze()


def collapse() -> None:
    """Moves this process's memory into huge pages, as far as the kernel has some.

    A branch gives up for it what it shared with its base: some 45 MB, once, for a quicker fork of every agent.
    """
    for start, end in _own_memory():
        start = -(-start // _HUGE_PAGE) * _HUGE_PAGE
        while start + _HUGE_PAGE <= end:
            # Fails where the kernel is older than 6.1 or out of huge pages: then forks take a little longer.
            _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(_HUGE_PAGE), _MADV_COLLAPSE)
            start += _HUGE_PAGE


def _own_memory() -> Iterator[tuple[int, int]]:
    """Ranges of addresses that hold this process's data."""
    with open("/proc/self/maps") as maps:
        for line in maps.read().splitlines():
            fields = line.split()
            if fields[1] == "rw-p" and fields[5:] in ([], ["[heap]"]):
                start, end = fields[0].split("-")
                yield int(start, 16), int(end, 16)


def _can_make_immortal() -> bool:
    """Whether this interpreter counts references the way we know. Others do without."""
    known = sys.implementation.name == "cpython" and sys.version_info[:2] in _KNOWN_LAYOUTS
    if not known or sysconfig.get_config_var("Py_GIL_DISABLED") or sys.maxsize < 2**32:
        return False
    probe = object()
    _count(probe).value = _IMMORTAL
    more = [probe] * 100
    # Nobody counted: neither the hundred new references nor the one that `getrefcount` takes.
    return bool(more) and sys.getrefcount(probe) == _IMMORTAL


def _count(thing: object) -> ctypes.c_uint32:
    """The low half of an object's reference count, which is its first field."""
    return ctypes.c_uint32.from_address(id(thing))


def _make_immortal() -> None:
    # Whatever is found stays in `found`, and so alive, until the end: nothing is written where an object has been.
    found = gc.get_objects()
    known = set(map(id, found))
    # The collector knows containers only; strings, numbers and bytes are reached through them. What is immortal already
    # was here before, with everything that it refers to.
    for container in found:
        for thing in gc.get_referents(container):
            if id(thing) not in known and sys.getrefcount(thing) != _IMMORTAL:
                known.add(id(thing))
                found.append(thing)
    # These two shall go when we are done.
    known -= {id(known), id(found)}
    for address in known:
        ctypes.c_uint32.from_address(address).value = _IMMORTAL
