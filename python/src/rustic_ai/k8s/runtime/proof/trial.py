"""One trial: a throwaway fork imports modules and reports what it saw.

    prover ──fork──▶ trial with identity A ─┐
       └─────fork──▶ trial with identity B ─┴─▶ a report each, over a pipe; nothing else of them stays

They differ in process id, working directory, randomness and a mark in the environment. What they were forked from has one thread.
"""

import contextlib
import ctypes
from dataclasses import asdict, dataclass, field
import importlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from types import ModuleType
from typing import NoReturn

from rustic_ai.k8s.runtime.host import describe
from rustic_ai.k8s.runtime.proof import facts
from rustic_ai.k8s.runtime.proof.closure import modules as loaded
from rustic_ai.k8s.runtime.proof.inert import Snapshot, settle
from rustic_ai.k8s.runtime.proof.pure import Walker, existing
from rustic_ai.k8s.runtime.proof.watch import Environment, Events, Finding, Imports, names_in_libraries

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None)
# Seconds for one trial, of its processor and of the clock.
_LONGEST = 60
_MARK = "RUSTIC_TRIAL"
_CHUNK = 1 << 16


@dataclass
class Report:
    """What one trial saw.

    Attributes:
        findings: What they did that memory alone does not show, or why they could not be imported.
        modules: What was imported, in the order in which it began.
        imports: Which of them imported which.
        digests: What they hold, by name.
        reads: Names of variables of the environment that were asked for.
        files: Files that were read, code and data of installed distributions.
    """

    findings: list[Finding] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    imports: dict[str, list[str]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    reads: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


class TrialFailed(Exception):
    """A trial ended without a report.

    Attributes:
        passing: Another time it may be otherwise.
    """

    def __init__(self, why: str, passing: bool = False) -> None:
        super().__init__(why)
        self.passing = passing


def twice(modules: list[str], memory: int, varying: frozenset[str], directory: str) -> tuple[Report, Report]:
    """Imports modules in two forks.

    Args:
        modules: What to import, in this order.
        memory: Bytes that a fork may use beyond what it has now.
        varying: Variables of the environment of which every agent has a value of its own.
        directory: Where each gets a working directory of its own; made if it is not there.

    Raises:
        TrialFailed: One of them crashed, took too long, or ran out of memory.
    """
    # What an import starts, however it hides, comes to this process when its parent ends.
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    forks: list[_Fork] = []
    try:
        forks.extend(_Fork(modules, memory, varying, f"{directory}/{os.getpid()}-{number}") for number in range(2))
        first, second = (fork.report() for fork in forks)
    except OSError as error:
        raise TrialFailed(f"it could not be tried: {error.strerror}", passing=True) from error
    finally:
        for fork in forks:
            fork.end()
        _end_children()
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        with contextlib.suppress(OSError):
            # Another branch's trials may be there.
            os.rmdir(directory)
    return first, second


def _end_children() -> None:
    """Ends whatever is left of the trials, until nothing comes any more."""
    while children := facts.children():
        for child in children:
            # Reaped here, so its number is its own until then.
            os.kill(int(child), signal.SIGKILL)
            os.waitpid(int(child), 0)


class _Fork:
    """A fork, in a directory of its own."""

    def __init__(self, modules: list[str], memory: int, varying: frozenset[str], directory: str) -> None:
        self._directory = directory
        os.makedirs(directory, mode=0o700)
        self._reader, writer = os.pipe()
        try:
            self._pid = os.fork()
        except OSError:
            os.close(self._reader)
            os.close(writer)
            shutil.rmtree(self._directory, ignore_errors=True)
            raise
        if self._pid == 0:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            os.close(self._reader)
            _be_a_trial(modules, self._directory, memory, varying, writer)
        os.close(writer)
        self._ended = os.pidfd_open(self._pid)
        self._deadline = time.monotonic() + _LONGEST

    def report(self) -> Report:
        """Waits for the report. What the import has started may hold the pipe: the report is whole when the fork has ended."""
        data = bytearray()
        ended = False
        while not ended:
            left = max(0.0, self._deadline - time.monotonic())
            ready = select.select([self._reader, self._ended], [], [], left)[0]
            if not ready:
                raise TrialFailed(f"its import took longer than {_LONGEST} s")
            ended = self._ended in ready
            data += self._read()
        if not data:
            raise TrialFailed(f"its import ends the process ({self._how_it_ended()})")
        fields = json.loads(data)
        fields["findings"] = [Finding(**finding) for finding in fields["findings"]]
        return Report(**fields)

    def _read(self) -> bytes:
        """What is there to be read now."""
        data = bytearray()
        while select.select([self._reader], [], [], 0)[0] and (chunk := os.read(self._reader, _CHUNK)):
            data += chunk
        return bytes(data)

    def _how_it_ended(self) -> str:
        _pid, status = os.waitpid(self._pid, 0)
        self._pid = 0
        code = os.waitstatus_to_exitcode(status)
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def end(self) -> None:
        """Leaves nothing of it."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._reader)
        os.close(self._ended)
        shutil.rmtree(self._directory, ignore_errors=True)


def _be_a_trial(modules: list[str], directory: str, memory: int, varying: frozenset[str], writer: int) -> NoReturn:
    try:
        report = _try(modules, directory, memory, varying)
    except BaseException as error:
        report = Report([Finding(f"it cannot be looked at: {describe(error)} ({traceback.format_exc(limit=-3)})")])
    try:
        with open(writer, "w") as stream:
            json.dump(asdict(report), stream)
    finally:
        os._exit(0)


def _try(modules: list[str], directory: str, memory: int, varying: frozenset[str]) -> Report:
    _silence()
    _limit(memory)
    os.chdir(directory)
    os.environ[_MARK] = directory
    names, before = frozenset(sys.modules), existing()
    snapshot = Snapshot()
    environment, events, imports = Environment.watch(varying | {_MARK}), Events(), Imports()
    report = Report()
    try:
        for name in modules:
            importlib.import_module(name)
    except BaseException as error:
        report.findings.append(Finding(f"it cannot be imported by itself: {describe(error)}"))
    for listener in (events, environment, imports):
        listener.stop()
    settle()
    report.findings += [*events.findings, *environment.findings, *map(Finding, snapshot.changes())]
    new = {name: module for name, module in list(sys.modules.items()) if name not in names}
    found = [module for module in new.values() if isinstance(module, ModuleType)]
    report.modules = [name for name, _module in loaded() if name not in names]
    report.imports = {name: sorted(edges & new.keys()) for name, edges in imports.edges.items() if name in new}
    walker = Walker(before, _reseeded())
    report.digests = dict(walker.digests(found))
    report.findings += walker.findings
    code = [file for module in found if (file := getattr(module, "__file__", None))]
    report.files = sorted({*code, *events.data})
    libraries = [file for file in code if ".so" in file]
    report.reads = sorted({*environment.reads, *names_in_libraries(libraries)})
    return report


def _silence() -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _limit(memory: int) -> None:
    """An import that uses up memory, or the processor, ends itself and nobody else."""
    with open("/proc/self/statm") as statm:
        data = int(statm.read().split()[5]) * resource.getpagesize()
    for limit, value in ((resource.RLIMIT_DATA, data + memory), (resource.RLIMIT_CPU, _LONGEST)):
        _soft, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _reseeded() -> frozenset[int]:
    """Generators that `child.become` seeds anew in every agent."""
    mtrand = sys.modules.get("numpy.random.mtrand")
    rand = getattr(mtrand, "_rand", None)
    bits = getattr(rand, "_bit_generator", None)
    return frozenset(id(thing) for thing in (rand, bits) if thing is not None)
