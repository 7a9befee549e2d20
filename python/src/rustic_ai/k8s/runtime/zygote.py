"""The zygote: a warm, single-threaded process that forks one single-use child per agent.

    python -m rustic_ai.k8s.runtime.zygote        standard input: a Unix socket to agent-host, see `wire`
      └─ branch                                   a zygote too, forked from the first: it has also imported what
           └─ agent                               agents on this host turned out to need

A child is a child of agent-host, which learns its exit status and ends it with itself (`sibling`). A fork with threads
or foreign sockets open would copy locks that nobody unlocks: it is refused, with the module that is to blame, and the
host starts that agent cold.
"""

from collections.abc import Callable
from enum import Enum
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
_PRELOAD = ("rustic_ai.k8s.runtime.life", "rustic_ai.k8s.runtime.service")
# What may not be installed is left out. Python looks host names up with the "idna" codec, which it imports on demand.
_REDIS_BACKEND = "rustic_ai.redis.messaging.backend"
_PRELOAD_IF_PRESENT = ("encodings.idna", "rustic_ai.core.messaging.backend", _REDIS_BACKEND)
_TITLE = "rustic-zygote"


class Then(Enum):
    """What follows the imports of a zygote."""

    REHEARSE = "rehearse"
    SERVE = "serve"


class Zygote:
    """Serves one host until the socket closes."""

    def __init__(self, wire: Wire, host_pid: int) -> None:
        """Takes over the socket to the host."""
        self._wire = wire
        self._host_pid = host_pid
        self._culprit = ""
        self._failed: list[dict[str, str]] = []
        self._known: frozenset[str] = frozenset()

    def warm_up(self, then: Then) -> None:
        """Imports what every agent needs, and has it run once. A branch has both already.

        Args:
            then: What follows the imports. A rehearsal that leaves threads or sockets behind begins everything anew, without.
        """
        # Imports leave next to no garbage, and to look for it takes a fifth of their time. Until memory is shared there is
        # nothing else to look at either.
        gc.disable()
        self._failed = self._preload(_own_list())
        _remember_versions()
        if then is Then.SERVE or self._failed or not _is_installed(_REDIS_BACKEND):
            return
        try:
            from rustic_ai.k8s.runtime import rehearsal

            rehearsal.rehearse()
            spoilt = self._obstacle([])
        except Exception:
            traceback.print_exc()
            spoilt = "it failed"
        if spoilt:
            print(f"agents start without what a rehearsal leaves: {spoilt}", file=sys.stderr, flush=True)
            self._begin_anew(Then.SERVE)

    def run(self) -> None:
        """Imports what the host asks for, says hello and does what it is told, until the host closes the socket."""
        first = self._wire.receive()
        if first is None:
            return
        gc.disable()
        failed = [*self._failed, *self._preload(first[0]["modules"])]
        self._known = frozenset(sys.modules)
        obstacle = self._obstacle([])
        if obstacle:
            # It may be garbage.
            gc.collect()
            obstacle = self._obstacle([])
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
            if message["op"] == "share":
                shared.share()
                shared.collapse()
                gc.enable()
                self._wire.send({"event": "shared"})
            else:
                self._fork(message, descriptors)

    def _begin_anew(self, then: Then) -> NoReturn:
        os.dup2(self._wire.fileno(), 0)
        os.execv(sys.executable, [*sys.orig_argv, then.value])

    def _fork(self, message: dict[str, Any], descriptors: list[int]) -> None:
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
            Zygote(Wire(child.CONTROL), self._host_pid).run()
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
    zygote = Zygote(Wire(os.dup(0)), os.getppid())
    null_stdin()
    child.entitle(_TITLE)
    zygote.warm_up(Then(sys.argv[1]) if len(sys.argv) > 1 else Then.REHEARSE)
    zygote.run()


if __name__ == "__main__":
    main()
