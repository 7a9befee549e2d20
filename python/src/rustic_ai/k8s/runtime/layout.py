"""Moves the code that agents run close together, in the memory that a zygote shares with its children.

CPython notes in a code object itself how its instructions fare (PEP 659), so a child that runs a function copies the page on
which that function's code lies. Imports leave code wherever there was room: of a thousand functions that an agent runs while it
starts, each costs a page of its own. So what a rehearsal has run is copied, one after the other, into fresh memory:

    loaded ──▶ a rehearsal runs: what it has written to has run ──▶ copied side by side ──▶ rehearsed anew: copies know nothing yet

Measured: an agent copies a fifth fewer pages, with what `shared.fill_holes` does (`docs/performance.md`).
"""

import ctypes
import gc
from types import CodeType, FunctionType
from typing import Self
import zlib

from rustic_ai.k8s.runtime import shared

# Code of what runs in a child although no rehearsal runs it.
_OWN = "/rustic_ai/k8s/runtime/"
# The reference count, which is no sign of having run.
_HEAD = 16


class Layout:
    """All code that is loaded, and what it looks like in memory."""

    @classmethod
    def look(cls) -> Self | None:
        """Looks at it; None: this interpreter's memory is not laid out the way we know."""
        return cls() if shared.is_known() else None

    def __init__(self) -> None:
        """See `look`."""
        self._functions = [each for each in gc.get_objects() if type(each) is FunctionType]
        self._code: dict[int, CodeType] = {}
        # Of code that lies within other code, such as that of closures: the other one.
        self._outer: dict[int, int] = {}
        found = [function.__code__ for function in self._functions]
        while found:
            code = found.pop()
            if id(code) not in self._code:
                self._code[id(code)] = code
                for inner in code.co_consts:
                    if type(inner) is CodeType:
                        self._outer[id(inner)] = id(code)
                        found.append(inner)
        self._looks = self._digests()

    def ran(self) -> list[CodeType]:
        """What has run since the look, and was written to as it did."""
        return [self._code[place] for place, digest in self._digests().items() if digest != self._looks[place]]

    def move_what_ran(self) -> None:
        """Copies what has run since the look into fresh memory. To be called with a single thread."""
        ran = {id(code) for code in self.ran()}
        ran |= {place for place, code in self._code.items() if _OWN in code.co_filename}
        for place in list(ran):
            while (outer := self._outer.get(place)) is not None and outer not in ran:
                ran.add(outer)
                place = outer
        # Kept until all copies are made: else these would lie between them.
        instructions = {place: self._code[place].co_code for place in ran}
        copies: dict[int, CodeType] = {}

        def copy(code: CodeType) -> CodeType:
            place = id(code)
            if place in ran and place not in copies:
                constants = tuple(copy(each) if type(each) is CodeType else each for each in code.co_consts)
                copies[place] = code.replace(co_consts=constants, co_code=instructions[place])
            return copies.get(place, code)

        shared.fill_holes()
        for function in self._functions:
            if id(function.__code__) in ran:
                function.__code__ = copy(function.__code__)

    def _digests(self) -> dict[int, int]:
        # All memory as bytes, so that nothing is copied to be looked at.
        memory = memoryview((ctypes.c_ubyte * (1 << 47)).from_address(0)).cast("B")
        return {
            place: zlib.crc32(memory[place + _HEAD : place + code.__sizeof__()]) for place, code in self._code.items()
        }
