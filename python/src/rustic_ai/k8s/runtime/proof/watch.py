"""What an import reads: variables of the environment by name, files that are no code, the network, other programs."""

import builtins
from collections.abc import Iterator
from dataclasses import dataclass
import importlib.util
import os
from pathlib import Path
import re
import site
import sys
import sysconfig
from types import ModuleType
from typing import Any

# Stands for names that are not known beforehand: all of them were looked at.
EVERYTHING = "*"
# Files that say nothing about where or when they are read.
_NOTHING = ("/dev/null", "/dev/urandom", "/dev/random")
_TIME_ZONES = "/usr/share/zoneinfo/"
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind", "socket.sendto")
_PROGRAMS = ("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "os.fork", "os.forkpty", "os.spawn")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_NAME_IN_LIBRARY = re.compile(rb"(?<=\0)[A-Z][A-Z0-9_]{3,63}(?=\0)")


@dataclass(frozen=True)
class Finding:
    """Something that speaks against sharing.

    Attributes:
        text: What, in words.
        module: The module that did it; empty: not known.
        passing: It says nothing of the module itself: another time, or for another class, it may be otherwise.
    """

    text: str
    module: str = ""
    passing: bool = False


class Environment(dict[bytes, bytes]):
    """In the place of what `os.environ` holds: notes which names are asked for, and what is set and removed."""

    def __init__(self, held: dict[bytes, bytes], varying: frozenset[str] = frozenset()) -> None:
        """Takes over what `os.environ` holds.

        Args:
            held: What it holds.
            varying: Names of which every agent has a value of its own: to ask for one is a finding.
        """
        super().__init__(held)
        self._varying = varying
        # Which modules asked for a name.
        self._asked: dict[str, set[str]] = {}
        self.writes: dict[str, str | None] = {}
        self.findings: list[Finding] = []

    @property
    def reads(self) -> set[str]:
        """Names that were asked for, and `EVERYTHING` if all were looked at."""
        return set(self._asked)

    @property
    def reads_by_name(self) -> set[str]:
        """Names that were asked for by modules of others than Python itself, apart from those that looked at all of them."""
        at_all = self._asked.get(EVERYTHING, set())
        return {name for name, modules in self._asked.items() if name != EVERYTHING and any(map(_is_foreign, modules - at_all))}

    @classmethod
    def watch(cls, varying: frozenset[str] = frozenset()) -> "Environment":
        """Puts one in place."""
        watcher = cls(os.environ._data, varying)  # type: ignore[attr-defined]
        os.environ._data = watcher  # type: ignore[attr-defined]
        # Made when `os` was imported, of the same data.
        os.environb._data = watcher  # type: ignore[attr-defined]
        return watcher

    def stop(self) -> None:
        """Puts a plain one back."""
        plain = dict(dict.items(self))
        os.environ._data = plain  # type: ignore[attr-defined]
        os.environb._data = plain  # type: ignore[attr-defined]

    def __getitem__(self, name: bytes) -> bytes:
        self._ask(_text(name))
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        if isinstance(name, bytes):
            self._ask(_text(name))
        return super().__contains__(name)

    def __iter__(self) -> Iterator[bytes]:
        self._ask(EVERYTHING)
        self._found("it reads the whole environment")
        return super().__iter__()

    def __setitem__(self, name: bytes, value: bytes) -> None:
        self.writes[_text(name)] = _text(value)
        self._found(f"it sets the variable {_text(name)}")
        super().__setitem__(name, value)

    def __delitem__(self, name: bytes) -> None:
        self.writes[_text(name)] = None
        self._found(f"it removes the variable {_text(name)}")
        super().__delitem__(name)

    def _ask(self, name: str) -> None:
        self._asked.setdefault(name, set()).add(importing())
        if name in self._varying:
            self._found(f"it reads the variable {name}, which differs from agent to agent")

    def _found(self, text: str) -> None:
        self.findings.append(Finding(text, importing()))


class Events:
    """Listens to the interpreter's audit events; cannot be taken away again, so only for processes that are thrown away."""

    def __init__(self) -> None:
        """Begins to listen."""
        self._places = code_places()
        self._on = True
        self.findings: list[Finding] = []
        # Files of installed distributions that were read as data: part of what is shared.
        self.data: set[str] = set()
        sys.addaudithook(self._hear)

    def stop(self) -> None:
        """Listens no more."""
        self._on = False

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event == "open":
            self._opened(arguments)
        elif event in _NETWORK:
            self._found(f"it uses the network ({event} {_short(arguments[-1])})")
        elif event in _PROGRAMS:
            self._found(f"it starts programs ({event} {_short(arguments[0] if arguments else '')})")

    def _opened(self, arguments: tuple[Any, ...]) -> None:
        path, _mode, flags = arguments
        if not isinstance(path, (str, bytes, os.PathLike)):
            # A descriptor that it has opened before.
            return
        name = os.fsdecode(os.path.abspath(os.fsdecode(path)))
        if name in _NOTHING or name in sys.path or name.startswith(_TIME_ZONES):
            return
        if flags and flags & _WRITES:
            # Bytecode that the import system keeps.
            if "__pycache__" not in name:
                self._found(f"it writes to {name}")
        elif is_code(name):
            return
        elif name.startswith(self._places):
            self.data.add(name)
        else:
            self._found(f"it reads the file {name}")

    def _found(self, text: str) -> None:
        finding = Finding(text, importing())
        if finding not in self.findings:
            self.findings.append(finding)


class Imports:
    """Who imports whom, while modules are imported."""

    def __init__(self) -> None:
        """Begins to listen."""
        self._import = builtins.__import__
        self.edges: dict[str, set[str]] = {}
        builtins.__import__ = self._heed

    def stop(self) -> None:
        """Listens no more."""
        builtins.__import__ = self._import

    def _heed(self, name: str, *arguments: Any, **options: Any) -> ModuleType:
        within = arguments[0] if arguments else options.get("globals")
        level = arguments[3] if len(arguments) > 3 else options.get("level", 0)
        importer = str((within or {}).get("__name__", ""))
        wanted = arguments[2] if len(arguments) > 2 else options.get("fromlist")
        if level:
            package = str((within or {}).get("__package__") or importer)
            name_in_full = importlib.util.resolve_name("." * level + name, package)
        else:
            name_in_full = name
        edges = self.edges.setdefault(importer, set())
        edges.add(name_in_full)
        edges.update(f"{name_in_full}.{part}" for part in wanted or ())
        return self._import(name, *arguments, **options)


def importing() -> str:
    """The module whose code is being run for its import, the innermost one that is; empty: none."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            return str(frame.f_globals.get("__name__", ""))
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def is_code(name: str) -> bool:
    """Whether a file is what the import system reads."""
    return name.endswith((".py", ".pyc", ".so", ".pth", ".pyi"))


def code_places() -> tuple[str, ...]:
    """Folders of Python itself and of installed distributions."""
    paths = {sysconfig.get_path(which) for which in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths.update(site.getsitepackages())
    return tuple(f"{Path(path).absolute()}/" for path in sorted(filter(None, paths)))


def names_in_libraries(paths: list[str]) -> Iterator[str]:
    """What may be names of variables in libraries of machine code, which ask C for them: nobody sees that, but the names are there.

    Args:
        paths: Files of shared objects.
    """
    for path in paths:
        data = Path(path).read_bytes()
        if b"getenv" in data:
            yield from {name.decode() for name in _NAME_IN_LIBRARY.findall(data)}


def _is_foreign(module: str) -> bool:
    return module.partition(".")[0] not in sys.stdlib_module_names


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _short(thing: object) -> str:
    return repr(thing)[:100]
