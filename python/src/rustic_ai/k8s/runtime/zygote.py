"""The zygote: a warm, single-threaded process that forks one single-use child per agent.

    python -m rustic_ai.k8s.runtime.zygote        standard input: a Unix socket to agent-host, see `wire`
      └─ branch                                   a zygote too, forked from another one: it has also imported what agents of
           ├─ agent                               certain classes import, as far as that was proven to be safe (`proof`)
           └─ branch …

A child is a child of agent-host, which learns its exit status and ends it with itself (`sibling`). A fork with threads
would copy locks that nobody unlocks, and one with descriptors that somebody else opened would share them: it is refused, with the
module that is to blame, and the host starts that agent cold.
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
import time
import traceback
from typing import Any, NoReturn

from rustic_ai.k8s.runtime import child, confinement, shared, tracing
from rustic_ai.k8s.runtime.host import HostSocket, describe, null_stdin
from rustic_ai.k8s.runtime.layout import Layout
from rustic_ai.k8s.runtime.proof import facts
from rustic_ai.k8s.runtime.proof.closure import Unit, modules
from rustic_ai.k8s.runtime.proof.inert import settle
from rustic_ai.k8s.runtime.proof.prover import Outcome, Prover, Share, Wish
from rustic_ai.k8s.runtime.proof.watch import Environment
from rustic_ai.k8s.runtime.sibling import fork_sibling
from rustic_ai.k8s.runtime.wire import DESCRIPTORS, VERSION, Wire

# Everything an agent on the usual backends touches, imported once: modules, and what they import within functions.
_PRELOAD = ("rustic_ai.k8s.runtime.life", "rustic_ai.k8s.runtime.service", "rustic_ai.k8s.runtime.ids")
# What may not be installed is left out. Python looks host names up with the "idna" codec, which it imports on demand.
_REDIS_BACKEND = "rustic_ai.redis.messaging.backend"
_NATS_BACKEND = "rustic_ai.nats.messaging.backend"
_PRELOAD_IF_PRESENT = ("encodings.idna", "rustic_ai.core.messaging.backend", _REDIS_BACKEND, _NATS_BACKEND)
# What comes with a backend: of ours, and what it imports within functions.
_PRELOAD_WITH = {
    _REDIS_BACKEND: ("rustic_ai.k8s.runtime.redis_bus",),
    _NATS_BACKEND: ("nats", "nats.errors", "nats.js.api", "nats.js.errors"),
}
_TITLE = "rustic-zygote"
# How often code that was moved runs before a child does: CPython settles how it runs it after two times.
_REHEARSALS = 2
_STANDARD = frozenset({0, 1, 2})


class Then(Enum):
    """What follows the imports of a zygote."""

    REHEARSE = "rehearse"
    SERVE = "serve"


class Zygote:
    """Serves one host until the socket closes."""

    def __init__(self, wire: Wire, host_pid: int, ancestor: "Zygote | None" = None) -> None:
        """Takes over the socket to the host.

        Args:
            wire: The socket.
            host_pid: Process id of the host.
            ancestor: What it was forked from; None: it is the first.
        """
        confinement.be_dumpable(False)
        self._wire = wire
        self._host_pid = host_pid
        self._culprit = ""
        self._failed: list[dict[str, str]] = []
        self._reads: set[str] = set()
        # What vouched modules have set in the environment: an agent that imports them itself has that too.
        self._sets: dict[str, str | None] = {} if ancestor is None else dict(ancestor._sets)
        self._inherited = frozenset(sys.modules) if ancestor else frozenset()
        self._memory = shared.memory() if ancestor else []

    def warm_up(self, then: Then) -> None:
        """Imports what every agent needs, and has it run once. A branch has both already.

        Args:
            then: What follows the imports. A rehearsal that leaves threads or descriptors behind begins everything anew, without.
        """
        # Imports leave next to no garbage, and to look for it takes a fifth of their time. Until memory is shared there is
        # nothing else to look at either.
        gc.disable()
        environment = Environment.watch()
        self._preload(_own_list())
        environment.stop()
        self._reads |= environment.reads_by_name
        _remember_versions()
        if then is Then.SERVE or self._failed or not _is_installed(_REDIS_BACKEND):
            return
        try:
            from rustic_ai.k8s.runtime import rehearsal

            layout = Layout.look()
            rehearsal.rehearse()
            if layout is not None:
                layout.move_what_ran()
                for _ in range(_REHEARSALS):
                    rehearsal.rehearse()
            spoilt = self._obstacle([])
        except Exception:
            traceback.print_exc()
            spoilt = "it failed"
        if spoilt:
            print(f"agents start without what a rehearsal leaves: {spoilt}", file=sys.stderr, flush=True)
            self._begin_anew(Then.SERVE)

    def run(self) -> None:
        """Imports what may be shared of what the host names, says hello and does what the host asks for, until the socket closes."""
        first = self._wire.receive()
        if first is None:
            return
        gc.disable()
        outcome = self._import(first[0])
        obstacle = self._obstacle([])
        if obstacle:
            # It may be garbage.
            gc.collect()
            obstacle = self._obstacle([])
        obstacle = obstacle or outcome.spoilt
        shared.share()
        shared.collapse(self._memory)
        gc.enable()
        self._wire.send(self._hello(outcome, obstacle))
        while (request := self._wire.receive()) is not None:
            self._fork(*request)

    def _import(self, wish: dict[str, Any]) -> Outcome:
        prover = Prover(
            Wish(
                units=[Unit.parse(unit) for unit in wish["units"]],
                own=wish["own"],
                share=Share(wish["share"]),
                proven=frozenset(wish["proven"]),
                refused=frozenset(wish["refused"]),
                vouched=frozenset(wish["vouched"]),
                memory=wish["memory"],
                varying=frozenset(wish["varying"]),
                directory=wish["directory"],
            )
        )
        outcome = prover.run()
        self._reads |= outcome.reads
        self._sets.update(outcome.sets)
        if outcome.shared:
            # Threads that end themselves at a fork have ended before the first one.
            settle()
            self._culprit = ", ".join(outcome.shared[-1:])
        return outcome

    def _hello(self, outcome: Outcome, obstacle: str) -> dict[str, Any]:
        new = {name: module for name, module in modules() if name not in self._inherited}
        code = {file for module in new.values() if (file := getattr(module, "__file__", None))}
        return {
            "event": "hello",
            "version": VERSION,
            "shared": outcome.shared,
            "modules": list(new),
            "refused": outcome.refused,
            "postponed": outcome.postponed,
            "files": sorted(code | outcome.data),
            "reads": sorted(self._reads),
            "private": shared.private_bytes(),
            "spent": sum(os.times()[:4]),
            "failed_preloads": self._failed,
            "obstacle": obstacle,
            "culprit": self._culprit if obstacle else "",
        }

    def _begin_anew(self, then: Then) -> NoReturn:
        os.dup2(self._wire.fileno(), 0)
        os.execv(sys.executable, [*sys.orig_argv, then.value])

    def _fork(self, message: dict[str, Any], descriptors: list[int]) -> None:
        answer = {"id": message["id"]}
        try:
            if obstacle := self._obstacle(descriptors):
                self._wire.send({"event": "refused", **answer, "reason": obstacle})
                return
            try:
                pid = fork_sibling(lambda: _never_return(lambda: self._become(message, descriptors)))
            except OSError as error:
                self._wire.send({"event": "exhausted", **answer, "reason": f"it cannot fork: {error.strerror}"})
                return
            self._wire.send({"event": "forked", **answer, "pid": pid})
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _preload(self, modules: list[str]) -> None:
        """Imports everything; one that fails is reported and does not stop the rest."""
        for module in modules:
            try:
                importlib.import_module(module)
            except BaseException as error:
                trace = traceback.format_exc(limit=-20)
                self._failed.append({"module": module, "error": describe(error), "traceback": trace})

    def _obstacle(self, expected: list[int]) -> str:
        """Why forking would be unsafe now, apart from the `expected` descriptors; empty when it is safe."""
        since = f", since {self._culprit} was imported" if self._culprit else ""
        names = facts.threads()
        if len(names) != 1:
            return f"the zygote has {len(names)} threads ({', '.join(names)}){since}"
        own = _STANDARD | {self._wire.fileno(), *expected}
        for descriptor, what in facts.descriptors().items():
            if descriptor not in own:
                return f"the zygote has a descriptor open that is not its own, {descriptor} ({what}){since}"
        return ""

    def _become(self, message: dict[str, Any], descriptors: list[int]) -> int:
        """Lives the life of a forked child; returns its exit code."""
        began = time.monotonic()
        # Numbers are given in order, so that none of the first three takes the place of the fourth.
        *own, ruleset = descriptors if len(descriptors) == DESCRIPTORS else [*descriptors, None]
        child.detach(own, self._host_pid)
        self._wire.leave(child.CONTROL)
        confines = message["confinement"]
        if message["op"] == "branch":
            if confines:
                confinement.take_on(ruleset, confines["filter"])
            Zygote(Wire(child.CONTROL), self._host_pid, self).run()
            return 0
        child.become(message["title"], message["directory"], message["environment"], self._sets)
        if confines:
            confinement.take_on(ruleset, confines["filter"])
        from rustic_ai.k8s.runtime import life

        inherited = frozenset(sys.modules) if message["learn"] else None
        return life.run(HostSocket(child.CONTROL), began, inherited)


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
    present = [module for module in _PRELOAD_IF_PRESENT if _is_installed(module)]
    more = (other for module in present for other in _PRELOAD_WITH.get(module, ()))
    return [*_PRELOAD, *present, *more, *tracing.modules(os.environ)]


def _remember_versions() -> None:
    """Keeps versions of installed packages once they were read.

    redis-py looks up its own version for every connection pool, and each look parses the package's metadata anew: a
    sixth of the time in which an agent is built. A zygote is given up when what is installed changes.
    """
    importlib.metadata.version = functools.cache(importlib.metadata.version)
    if _is_installed("redis"):
        importlib.metadata.version("redis")


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
