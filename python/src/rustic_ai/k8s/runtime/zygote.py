"""The zygote: a warm, single-threaded process that forks one single-use child per agent.

    python -m rustic_ai.k8s.runtime.zygote        standard input: a Unix socket to agent-host, see `wire`
      └─ branch                                   a zygote too, forked from the first: it has also imported what
           └─ agent                               agents on this host turned out to need

A child is a child of agent-host, which learns its exit status and ends it with itself (`sibling`). A fork with threads
or foreign sockets open would copy locks that nobody unlocks: it is refused, with the module that is to blame, and the
host starts that agent cold.
"""

from collections.abc import Callable
import functools
import gc
import importlib
import importlib.metadata
import importlib.util
import os
import sys
import threading
import time
import traceback
from typing import Any, NoReturn

from rustic_ai.k8s.runtime import child, shared
from rustic_ai.k8s.runtime.host import HostSocket, describe, null_stdin
from rustic_ai.k8s.runtime.sibling import fork_sibling
from rustic_ai.k8s.runtime.wire import VERSION, Wire

# Everything an agent on the usual backends touches, imported once: modules, and what they import within functions.
_PRELOAD = ("rustic_ai.k8s.runtime.life", "rustic_ai.k8s.runtime.agent")
# What may not be installed is left out. Python looks host names up with the "idna" codec, which it imports on demand.
_PRELOAD_IF_PRESENT = ("encodings.idna", "rustic_ai.core.messaging.backend", "rustic_ai.redis.messaging.backend")
_TITLE = "rustic-zygote"


class Zygote:
    """Serves one host until the socket closes."""

    def __init__(self, wire: Wire, host_pid: int) -> None:
        """Takes over the socket to the host."""
        self._wire = wire
        self._host_pid = host_pid
        self._culprit = ""
        self._known: frozenset[str] = frozenset()

    def run(self, builtin: bool) -> None:
        """Imports what the host asks for, says hello and forks on demand, until the host closes the socket.

        Args:
            builtin: Whether to import our own list as well; a branch has it already.
        """
        first = self._wire.receive()
        if first is None:
            return
        wanted = first[0]["modules"]
        # Imports leave next to no garbage, and to look for it takes a fifth of their time.
        gc.disable()
        failed = self._preload([*_own_list(), *wanted] if builtin else wanted)
        if builtin:
            _remember_versions()
        self._known = frozenset(sys.modules)
        obstacle = self._obstacle([])
        if obstacle:
            # It may be garbage.
            gc.collect()
            obstacle = self._obstacle([])
        shared.share()
        shared.collapse()
        gc.enable()
        self._wire.send(
            {
                "event": "hello",
                "version": VERSION,
                "failed_preloads": failed,
                "obstacle": obstacle,
                "culprit": self._culprit,
            }
        )
        while (request := self._wire.receive()) is not None:
            message, descriptors = request
            obstacle = self._obstacle(descriptors)
            if obstacle:
                self._wire.send({"event": "refused", "id": message["id"], "reason": obstacle})
            else:
                pid = fork_sibling(lambda: _never_return(lambda: self._become(message, descriptors)))
                self._wire.send({"event": "forked", "id": message["id"], "pid": pid})
            for descriptor in descriptors:
                os.close(descriptor)

    def _preload(self, modules: list[str]) -> list[dict[str, str]]:
        """Imports everything; one that fails is told and does not stop the rest."""
        failed = []
        for module in modules:
            try:
                importlib.import_module(module)
            except BaseException as error:
                trace = traceback.format_exc(limit=-20)
                failed.append({"module": module, "error": describe(error), "traceback": trace})
            if not self._culprit and self._obstacle([]):
                self._culprit = module
        return failed

    def _obstacle(self, expected: list[int]) -> str:
        """Why forking would be unsafe now, apart from the `expected` descriptors; empty when it is safe."""
        since = f", since {self._culprit} was imported" if self._culprit else ""
        threads = len(os.listdir("/proc/self/task"))
        if threads != 1:
            names = ", ".join(thread.name for thread in threading.enumerate())
            return f"the zygote has {threads} threads ({names}){since}"
        for entry in os.listdir("/proc/self/fd"):
            if int(entry) not in (self._wire.fileno(), *expected) and _is_socket(int(entry)):
                return f"the zygote has an open socket, descriptor {entry}{since}"
        return ""

    def _become(self, message: dict[str, Any], descriptors: list[int]) -> int:
        """Lives the life of a forked child; returns its exit code."""
        began = time.monotonic()
        child.detach(descriptors, self._host_pid)
        if message["op"] == "branch":
            Zygote(Wire(child.CONTROL), self._host_pid).run(builtin=False)
            return 0
        child.become(message["title"], message["directory"], message["environment"])
        from rustic_ai.k8s.runtime import life

        return life.run(HostSocket(child.CONTROL), began, self._known)


def _never_return(work: Callable[[], int]) -> NoReturn:
    """Ends with the process, whatever happens: nothing of the zygote's own stack may run in a child."""
    code = 1
    try:
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _own_list() -> list[str]:
    return [*_PRELOAD, *(module for module in _PRELOAD_IF_PRESENT if _is_installed(module))]


def _remember_versions() -> None:
    """Keeps versions of installed packages once they were read.

    redis-py looks up its own version for every connection pool, and each look parses the package's metadata anew: a
    sixth of the time in which an agent is built. What is installed does not change under a running interpreter.
    """
    importlib.metadata.version = functools.cache(importlib.metadata.version)
    if _is_installed("redis"):
        importlib.metadata.version("redis")


def _is_socket(descriptor: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
    except OSError:
        # The descriptor of the listing itself is gone by now.
        return False


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def main() -> None:
    """Entry point."""
    wire = Wire(os.dup(0))
    null_stdin()
    child.entitle(_TITLE)
    Zygote(wire, os.getppid()).run(builtin=True)


if __name__ == "__main__":
    main()
