"""What an import made, as digests that two processes can compare.

Two forks of one process import the same modules while they differ in identity: process id, working directory, randomness, environment.
What they made is walked from the names of the new modules: numbers and text by value, containers by what they hold, functions by
their code, defaults and closures, classes by their namespaces, instances by their state. What was there before the import is at the
same address in both and is not walked. An object of C that shows no state is taken by its type, its words about itself and what
it refers to. A moment close to now is a finding by itself: both forks may have read the same minute.
"""

from collections.abc import Iterator
import datetime
import enum
import gc
import hashlib
import random
import re
import time
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any
import weakref

from rustic_ai.k8s.runtime.proof.watch import Finding

_PLAIN = (str, int, float, complex, bool, bytes, bytearray, range, slice, type(None), type(...), type(NotImplemented))
_PLAIN_BASES = (str, int, float, complex, bytes, bytearray)
_NAMED = (BuiltinFunctionType, GetSetDescriptorType, MemberDescriptorType)
_CONTAINERS = (dict, list, tuple, set, frozenset, MappingProxyType)
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]+")
# What the import system, or the first use of a class, writes; and what pydantic derives from the fields of a model, which are
# walked: it names classes by their addresses.
_SKIPPED = frozenset(
    "__builtins__ __loader__ __spec__ __cached__ __warningregistry__ __weakref__ __dict__ __slotnames__ _abc_impl __signature__"
    " __pydantic_core_schema__ __pydantic_validator__ __pydantic_serializer__".split()
)
_NUMPY_RANDOM = "numpy.random."
_DAY = 86400.0
# Seconds, milliseconds, microseconds and nanoseconds in a second.
_UNITS = (1.0, 1e3, 1e6, 1e9)


def existing() -> list[object]:
    """All objects that the collector knows now. As long as they are kept, no new one takes the place of one of them."""
    gc.unfreeze()
    return gc.get_objects()


class Walker:
    """Digests what is new."""

    def __init__(self, before: list[object], reseeded: frozenset[int] = frozenset()) -> None:
        """Prepares a walk.

        Args:
            before: What was there, from `existing`; to be kept by the caller until the walk is over.
            reseeded: Identities of generators that every child seeds anew.
        """
        self._before = frozenset(map(id, before))
        self._reseeded = reseeded
        # Where an object was met first: the name that led to it, and its number there.
        self._met: dict[int, str] = {}
        # Everything that was walked stays: its identity must not be given to another object meanwhile.
        self._kept: list[object] = []
        self._at = ""
        self._count = 0
        self._now, self._today = time.time(), datetime.date.today()
        self.findings: list[Finding] = []
        self._module = ""

    def digests(self, modules: list[ModuleType]) -> Iterator[tuple[str, str]]:
        """Names in the modules, and the digest of what each stands for."""
        for module in modules:
            self._module = module.__name__
            for name, value in sorted(vars(module).items()):
                if name not in _SKIPPED:
                    self._at, self._count = f"{module.__name__}.{name}", 0
                    yield self._at, self._digest(value)

    def _digest(self, thing: object) -> str:
        hasher = hashlib.blake2b(digest_size=8)
        # Depth first, without the interpreter's own stack: what hangs together may be deep.
        todo: list[object] = [thing]
        while todo:
            thing = todo.pop()
            if thing is _END:
                hasher.update(b")")
                continue
            mark, parts = self._look(thing)
            hasher.update(mark.encode(errors="surrogatepass"))
            if parts:
                todo.append(_END)
                todo.extend(reversed(parts))
        return hasher.hexdigest()

    def _look(self, thing: Any) -> tuple[str, list[Any]]:
        """How a thing is distinguished from others, and what it consists of."""
        kind = type(thing)
        if kind in _PLAIN:
            self._heed_time(thing)
            return f"{kind.__name__}:{thing!r};", []
        identity = id(thing)
        if identity in self._before:
            return f"before:{identity};", []
        if met := self._met.get(identity):
            return f"again:{met};", []
        self._count += 1
        self._met[identity] = f"{self._at}#{self._count}"
        self._kept.append(thing)
        name = f"{kind.__module__}.{kind.__qualname__}("
        if isinstance(thing, ModuleType):
            return f"module:{thing.__name__};", []
        if identity in self._reseeded:
            return f"reseeded:{name};", []
        if isinstance(thing, type):
            own = [(key, value) for key, value in sorted(vars(thing).items()) if key not in _SKIPPED]
            return f"class:{thing.__module__}.{thing.__qualname__}(", [*type.mro(thing)[1:], *_flat(own)]
        return name, self._parts(thing, name)

    def _parts(self, thing: Any, name: str) -> list[Any]:
        if isinstance(thing, FunctionType):
            cells = [_content(cell) for cell in thing.__closure__ or ()]
            return [thing.__code__, thing.__defaults__, thing.__kwdefaults__, thing.__qualname__, *cells, vars(thing)]
        if isinstance(thing, CodeType):
            return [thing.co_code, thing.co_names, thing.co_consts, thing.co_filename, thing.co_firstlineno]
        if isinstance(thing, _NAMED):
            return [getattr(thing, "__qualname__", ""), getattr(thing, "__module__", "")]
        if isinstance(thing, MethodType):
            return [thing.__func__, thing.__self__]
        if isinstance(thing, (datetime.date, datetime.time)):
            self._heed_date(thing)
            return [repr(thing)]
        if isinstance(thing, weakref.ref):
            return [thing()]
        if isinstance(thing, random.Random) or name.startswith(_NUMPY_RANDOM):
            return [_state_of_generator(thing)]
        if type(thing) in _CONTAINERS:
            return self._items(thing)
        return [*self._items(thing), *_state(thing)] or _opaque(thing)

    def _items(self, thing: Any) -> list[Any]:
        """What a container holds, past whatever a subclass does when it is asked."""
        if isinstance(thing, dict):
            return _flat(list(dict.items(thing)))
        if isinstance(thing, MappingProxyType):
            return _flat(list(thing.items()))
        if isinstance(thing, list):
            return list(list.__iter__(thing))
        if isinstance(thing, tuple):
            return list(tuple.__iter__(thing))
        if isinstance(thing, (set, frozenset)):
            return _in_order(thing)
        if isinstance(thing, enum.Enum):
            return [thing.name]
        return [base.__repr__(thing) for base in _PLAIN_BASES if isinstance(thing, base)]

    def _heed_time(self, thing: Any) -> None:
        if type(thing) in (int, float) and thing > 1e9:
            if any(abs(thing / unit - self._now) < _DAY for unit in _UNITS):
                self._found("the time of now")
        elif type(thing) is str and len(thing) < 64 and str(self._today) in thing:
            self._found("the date of today")

    def _heed_date(self, thing: datetime.date | datetime.time) -> None:
        try:
            days = datetime.date(thing.year, thing.month, thing.day) - self._today  # type: ignore[union-attr]
        except (AttributeError, TypeError, ValueError):
            # A time without a day, or something of a library that stands for none.
            return
        if abs(days.days) <= 1:
            self._found("the date of today")

    def _found(self, what: str) -> None:
        finding = Finding(f"{self._at} holds {what}", self._module)
        if finding not in self.findings:
            self.findings.append(finding)


# Stands where the parts of a thing end.
_END = object()


def _flat(pairs: list[tuple[Any, Any]]) -> list[Any]:
    return [part for pair in pairs for part in pair]


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _in_order(members: Any) -> list[Any]:
    """Members of a set, whose own order follows addresses. Of those that have a name in common only the name counts."""
    named: dict[str, list[Any]] = {}
    for member in members:
        named.setdefault(_name(member), []).append(member)
    return [one for name, same in sorted(named.items()) for one in (same if len(same) == 1 else [name] * len(same))]


def _name(thing: Any) -> str:
    if type(thing) in _PLAIN or isinstance(thing, _PLAIN_BASES):
        return f"{type(thing).__name__}:{thing!r}"
    if isinstance(thing, tuple):
        return repr([_name(part) for part in thing])
    own = getattr(thing, "__qualname__", None)
    return f"{getattr(thing, '__module__', '')}.{own or type(thing).__qualname__}"


def _state_of_generator(thing: Any) -> str:
    for name in ("getstate", "get_state"):
        if look := getattr(thing, name, None):
            try:
                return repr(look())
            except NotImplementedError:
                # One that asks the system each time has none.
                return ""
    return repr(getattr(thing, "state", None) or getattr(getattr(thing, "bit_generator", None), "state", None))


def _state(thing: Any) -> list[Any]:
    """Attributes and slots of an instance, past whatever its class does when it is asked."""
    found: list[Any] = []
    try:
        attributes = object.__getattribute__(thing, "__dict__")
    except AttributeError:
        attributes = None
    if isinstance(attributes, dict):
        found.extend(_flat([pair for pair in attributes.items() if pair[0] not in _SKIPPED]))
    for cls in type(thing).__mro__:
        for name, member in vars(cls).items():
            if isinstance(member, MemberDescriptorType) and name not in _SKIPPED:
                try:
                    found.extend((name, member.__get__(thing)))
                except AttributeError:
                    # A slot that was never filled.
                    continue
    if type(thing).__name__ == "_lru_cache_wrapper":
        # What it remembers.
        found.extend(gc.get_referents(thing))
    return found


def _opaque(thing: Any) -> list[Any]:
    """An object of C: by its own words, where it has some, and by what it refers to."""
    try:
        words = _ADDRESS.sub("0x", repr(thing))
    except Exception:
        words = ""
    return [words, *gc.get_referents(thing)]
