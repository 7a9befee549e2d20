"""Keeps memory shared between a zygote and its children.

A forked child shares every page with its parent until one of them writes to it, and CPython writes all the time: each
look at an object counts a reference *in* the object. Three things keep the writers away from what was imported, and
a fourth makes a fork cheap:

- `gc.freeze` takes all objects out of the collector's lists, so that a collection does not touch them;
- immortal objects (PEP 683) are not counted at all. CPython makes None, small numbers and the like immortal; here
  everything that is alive before the first fork becomes so. It would never be freed anyway: it belongs to the zygote.
- holes that garbage left between objects are filled, in Python's memory and in the C library's: what a child creates goes to
  fresh pages, close together, instead of a few bytes here and there in pages that must be copied for it.
- huge pages: a fork copies one entry of the page table for 2 MiB instead of 512. What a child writes to is still
  copied by the 4 KiB. A branch leaves what it has from its ancestor where it is: it stays shared.

Measured: private dirty memory of an idle agent falls by a half (`docs/performance.md`).
"""

from collections.abc import Iterator
import ctypes
import gc
import itertools
import platform
import os
import sys
import sysconfig
from types import CodeType
from typing import Any

# What `Include/refcount.h` calls _Py_IMMORTAL_REFCNT in CPython 3.12 and 3.13: the low 32 bits of the count, all set.
_IMMORTAL = 0xFFFFFFFF
_KNOWN_LAYOUTS = ((3, 12), (3, 13))
# Objects whose referents are asked for in one call: as many as make the call cheap and its answer small.
_BATCH = 1000
# What `Objects/obmalloc.c` calls POOL_SIZE, ALIGNMENT and SMALL_REQUEST_THRESHOLD: small objects of one size share a pool.
_POOL, _ALIGNMENT, _LARGEST_SMALL = 16 << 10, 16, 512
# Bytes that holes may take; an interpreter that has more is not the one we know.
_MOST_HOLES = 64 << 20
_HUGE_PAGE = 2 << 20
_MADV_COLLAPSE = 25
# Bytes of chunks of the C library's heap, which uses other means for larger ones.
_LARGEST_CHUNK, _SMALLEST_CHUNK = 64 << 10, 24
_libc = ctypes.CDLL(None, use_errno=True)


class _Mallinfo2(ctypes.Structure):
    """Of <malloc.h>."""

    _names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = [(name, ctypes.c_size_t) for name in _names]


def share() -> None:
    """Makes everything that is alive fit to be shared. To be called before the first fork, with a single thread.

    A branch does it again, for what it has imported beyond its base: the collector does not show it frozen objects any
    more, and immortal ones are passed over. What is garbage by now stays: it is little, and there once for all.
    """
    if _can_make_immortal():
        _make_immortal()
    fill_holes()
    gc.freeze()


def fill_holes() -> None:
    """Has whatever is created next lie in fresh memory, one after the other."""
    if _has_pools():
        _fill_pools()
    if platform.libc_ver()[0] == "glibc":
        _fill_heap()


def collapse(inherited: list[tuple[int, int]]) -> None:
    """Moves this process's memory into huge pages, as far as the kernel has some.

    Args:
        inherited: Ranges of addresses that stay as they are, from `memory`: what a branch has from its ancestor is in huge pages
            already, and shared with it.
    """
    for start, end in _without(memory(), inherited):
        start, end = -(-start // _HUGE_PAGE) * _HUGE_PAGE, end // _HUGE_PAGE * _HUGE_PAGE
        if start < end:
            # Fails where the kernel is older than 6.1 or out of huge pages: then forks take a little longer.
            _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_COLLAPSE)


def memory() -> list[tuple[int, int]]:
    """Ranges of addresses that hold this process's data, in order."""
    found = []
    with open("/proc/self/maps") as maps:
        for line in maps.read().splitlines():
            fields = line.split()
            if fields[1] == "rw-p" and fields[5:] in ([], ["[heap]"]):
                start, end = fields[0].split("-")
                found.append((int(start, 16), int(end, 16)))
    return found


def private_bytes() -> int:
    """Memory that this process shares with no other one."""
    with open("/proc/self/smaps_rollup") as rollup:
        lines = [line.split() for line in rollup]
    return sum(int(line[1]) << 10 for line in lines if line[0] in ("Private_Clean:", "Private_Dirty:"))


def _without(ranges: list[tuple[int, int]], others: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Parts of ranges that are in none of the others; both in order."""
    for start, end in ranges:
        for other_start, other_end in others:
            if other_end <= start or other_start >= end:
                continue
            if start < other_start:
                yield start, other_start
            start = max(start, other_end)
        if start < end:
            yield start, end


def is_known() -> bool:
    """Whether this interpreter's memory is laid out the way we know."""
    known = sys.implementation.name == "cpython" and sys.version_info[:2] in _KNOWN_LAYOUTS
    return known and not sysconfig.get_config_var("Py_GIL_DISABLED") and sys.maxsize > 2**32


def _can_make_immortal() -> bool:
    """Whether this interpreter counts references the way we know. Others do without."""
    if not is_known():
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
    """Whatever is alive, from what the collector knows to what only that refers to.

    The collector knows containers; strings, numbers and bytes are reached through them, and constants through the code that
    has them. What is immortal already was met before, with everything that it refers to.
    """
    # All memory as numbers of 32 bits: one object of ctypes instead of one for each count.
    counts = (ctypes.c_uint32 * (1 << 45)).from_address(0)
    getrefcount = sys.getrefcount
    met: list[Any] = gc.get_objects()
    for thing in met:
        counts[id(thing) // 4] = _IMMORTAL
    while met:
        level: list[Any] = []
        for things in itertools.batched(met, _BATCH):
            referents = gc.get_referents(*things)
            # The collector does not know of these; to run them is to count them.
            referents += [thing.co_consts for thing in things if type(thing) is CodeType]
            for thing in referents:
                if getrefcount(thing) != _IMMORTAL:
                    counts[id(thing) // 4] = _IMMORTAL
                    level.append(thing)
        met = level


def _has_pools() -> bool:
    """Whether small objects are where CPython puts them by default."""
    replaced = os.environ.get("PYTHONMALLOC", "pymalloc") != "pymalloc" or sys.flags.dev_mode
    return is_known() and bool(sysconfig.get_config_var("WITH_PYMALLOC")) and not replaced


def _fill_pools() -> None:
    """Takes up the free blocks of the pools that small objects share, size by size, until a fresh pool is begun."""
    left = _MOST_HOLES
    for size in range(_ALIGNMENT, _LARGEST_SMALL + 1, _ALIGNMENT):
        count = _POOL // size // 2
        in_row = False
        while not in_row and left > 0:
            fillers = _objects_of(size, count)
            _fillers.append(fillers)
            left -= count * size
            # So many neighbours only a fresh pool has. The first ones may lie where the loop itself has been.
            row = fillers[count // 2 :]
            in_row = id(row[-1]) - id(row[0]) == (len(row) - 1) * size


def _fill_heap() -> None:
    """Takes up the free chunks of the C library's heap, the largest first, until what it gives lies at the end."""
    _libc.sbrk.restype = _libc.malloc.restype = ctypes.c_void_p
    _libc.malloc.argtypes, _libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
    _libc.mallinfo2.restype = _Mallinfo2
    end = _libc.sbrk(0) - _libc.mallinfo2().keepcost
    size = _LARGEST_CHUNK
    while size >= _SMALLEST_CHUNK:
        chunk = _libc.malloc(size)
        if chunk is None or chunk >= end:
            _libc.free(chunk)
            size = size * 7 // 8 if size > 1024 else size - _ALIGNMENT


# Never freed.
_fillers: list[list[Any]] = []
_EMPTY_BYTES = sys.getsizeof(b"")


def _objects_of(size: int, count: int) -> list[Any]:
    """As many new objects that take `size` bytes each, one made after the other and nothing in between."""
    made: list[Any] = [None] * count
    for place in range(count):
        if size >= _EMPTY_BYTES:
            made[place] = bytes(size - _EMPTY_BYTES)
        else:
            # 16 bytes, and 24 rounded up.
            made[place] = object() if size == _ALIGNMENT else float(place)
    return made
