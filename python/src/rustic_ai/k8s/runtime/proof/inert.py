"""What an import leaves behind besides its own modules: the process and the interpreter, before and after.

Whatever differs is reported in words that name it. Memory of the new modules is no difference: that is what a zygote shares. Two things
may be added to what was there, as every import adds them and only those see them who import the same: submodules of a
package, and filters for warnings.
"""

from collections.abc import Iterator
import logging
import os
import sys
from types import ModuleType
from typing import Any
import warnings

from rustic_ai.k8s.runtime.proof.facts import ABSENT, FACTS

# Names that the interpreter itself writes into modules, and caches that classes keep, filled when first used by whomever.
_BOOKKEEPING = frozenset({"__warningregistry__", "__cached__", "__annotations__"})
_CLASS_CACHES = frozenset({"_abc_impl", "__abstractmethods__", "__annotations__", "__annotations_cache__", "__slotnames__", "__doc__"})
# Attributes of pydantic's models that it completes when a model is first used.
_COMPLETED = "__pydantic_"
_PLAIN = (str, int, float, bool, bytes, type(None))
_MISSING = object()


class Snapshot:
    """How the process and the interpreter are at a moment."""

    def __init__(self) -> None:
        """Looks."""
        self._facts = {what: look() for what, look in FACTS.items()}
        self._filters = list(warnings.filters)
        self._modules = {name: (module, dict(vars(module))) for name, module in _modules()}
        self._classes = [(cls, dict(vars(cls))) for cls in _classes()]
        self._loggers = {name: _about(logger) for name, logger in _loggers()}

    def changes(self) -> Iterator[str]:
        """What is different now, in words."""
        yield from self._changed_facts()
        if any(entry not in warnings.filters for entry in self._filters):
            yield "a filter for warnings was removed"
        yield from self._changed_modules()
        yield from self._changed_classes()
        now = {name: _about(logger) for name, logger in _loggers()}
        yield from (f"the logger {name or 'root'} was changed" for name, was in self._loggers.items() if now.get(name) != was)

    def _changed_facts(self) -> Iterator[str]:
        for what, before in self._facts.items():
            now = FACTS[what]()
            if now == before or before is ABSENT:
                continue
            if isinstance(now, dict):
                yield from _differences(what, before, now)
            elif isinstance(now, (list, set)):
                new = ", ".join(str(entry) for entry in now if entry not in before)
                yield f"{what}: {new} came in addition" if new else f"{what}: there are fewer"
            else:
                yield f"{what}: {before} has become {now}"

    def _changed_modules(self) -> Iterator[str]:
        for name, (module, before) in self._modules.items():
            if sys.modules.get(name) is not module:
                yield f"the module {name} was replaced"
                continue
            now = dict(vars(module))
            for attribute, value in now.items():
                was = before.get(attribute, _MISSING)
                if was is not value and not _is_equal(was, value) and not _belongs(name, attribute, was, value):
                    yield f"{name}.{attribute} was {'added' if was is _MISSING else 'replaced'}"
            yield from (f"{name}.{attribute} was removed" for attribute in before if attribute not in now)

    def _changed_classes(self) -> Iterator[str]:
        for cls, before in self._classes:
            for attribute, value in dict(vars(cls)).items():
                was = before.get(attribute, _MISSING)
                kept = was is value or _is_equal(was, value) or _counts_on(was, value) or attribute in _CLASS_CACHES
                if not kept and not attribute.startswith(_COMPLETED):
                    yield f"{cls.__module__}.{cls.__qualname__}.{attribute} was changed"


def settle() -> None:
    """Forks and reaps a child that does nothing: threads that end themselves when their process forks have ended then, as those
    of OpenBLAS do. Threads that are still there would be missing in a child."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _differences(what: str, before: dict[Any, Any], now: dict[Any, Any]) -> Iterator[str]:
    for key in sorted(before.keys() | now.keys(), key=str):
        was, value = before.get(key), now.get(key)
        if was == value:
            continue
        if key not in before:
            yield f"{what}: {key} is new ({value})"
        elif key not in now:
            yield f"{what}: {key} is gone ({was})"
        else:
            yield f"{what}: {key} was {was} and is {value}"


def _modules() -> list[tuple[str, ModuleType]]:
    return [(name, module) for name, module in list(sys.modules.items()) if isinstance(module, ModuleType)]


def _classes() -> list[type]:
    """Every class there is, of Python and of others."""
    met: dict[int, type] = {}
    todo: list[type] = [object]
    while todo:
        for child in type.__subclasses__(todo.pop()):
            if id(child) not in met:
                met[id(child)] = child
                todo.append(child)
    return list(met.values())


def _is_equal(was: object, value: object) -> bool:
    """Whether a value was written anew and is what it was."""
    if isinstance(was, tuple) and isinstance(value, tuple):
        return len(was) == len(value) and all(map(_is_equal, was, value))
    return type(was) is type(value) and isinstance(was, _PLAIN) and was == value


def _counts_on(was: object, value: object) -> bool:
    """Whether a counter went on, such as that by which attrs orders attributes."""
    return type(was) is int and type(value) is int and value > was


def _belongs(name: str, attribute: str, was: object, value: object) -> bool:
    """Whether a module that was there has got what is its own: a submodule, or a name that it looks up late."""
    if attribute in _BOOKKEEPING:
        return True
    if isinstance(value, ModuleType):
        late = was is None and value.__name__.rpartition(".")[2] == attribute
        return late or was is _MISSING and value.__name__.startswith(f"{name}.")
    package = name.partition(".")[0]
    return was is _MISSING and str(getattr(value, "__module__", "")).partition(".")[0] == package


def _loggers() -> list[tuple[str, logging.Logger]]:
    known = list(logging.root.manager.loggerDict.items())
    return [("", logging.root), *((name, one) for name, one in known if isinstance(one, logging.Logger))]


def _about(logger: logging.Logger) -> tuple[Any, ...]:
    """What a logger's owner sets; not what it remembers."""
    handlers = [id(handler) for handler in logger.handlers]
    return logger.level, handlers, list(map(id, logger.filters)), logger.propagate, logger.disabled
