"""Imports for good what may be shared, and only that.

    the class's own module, with all that it imports ──passes──▶ imported
              │ does not
              ▼
    all units of others together ──pass──▶ imported
              │ do not: those that are to blame are refused, and those that import them
              ▼
    what is left, together; if nobody is to blame, each half of it, and so on
              │
              ▼
    the class's own other modules, in the same way

A unit whose proof is known to hold is imported without one; one that is known to fail is left out.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
import importlib
import sys
import time

from rustic_ai.k8s.runtime.host import describe
from rustic_ai.k8s.runtime.proof import trial
from rustic_ai.k8s.runtime.proof.closure import Place, Unit, modules
from rustic_ai.k8s.runtime.proof.inert import Snapshot, settle
from rustic_ai.k8s.runtime.proof.trial import Report, TrialFailed
from rustic_ai.k8s.runtime.proof.watch import Environment, Finding, names_in_libraries

# Most findings that are named of one unit, and letters of each.
_NAMED, _LONGEST = 3, 300
# Seconds for all proofs of one branch.
_PATIENCE = 120.0


class Share(StrEnum):
    """What may be shared."""

    # Whatever passes the proof.
    PROVEN = "proven"
    # The same, but never the class's own package or source folder.
    THIRD_PARTY = "third-party"


@dataclass(frozen=True)
class Wish:
    """What a class imports, and what is known of it.

    Attributes:
        units: What it imports, dependencies more or less first.
        own: Module of the class; empty: there is none, as for what an operator preloads.
        share: What may be shared.
        proven: Names of units whose proof is known to hold.
        refused: Names of units that are known to fail.
        vouched: Names of units that the operator shares without proof, with all that they import.
        memory: Bytes that a proof may use beyond what is there.
        varying: Variables of the environment of which every agent has a value of its own.
        directory: Where trials get their working directories.
    """

    units: list[Unit]
    own: str
    share: Share
    proven: frozenset[str]
    refused: frozenset[str]
    vouched: frozenset[str]
    memory: int
    varying: frozenset[str]
    directory: str


@dataclass
class Outcome:
    """What became of a wish.

    Attributes:
        shared: Names of units that were imported.
        refused: Names of units that were not, and why.
        postponed: The same, for reasons that may pass, or hold for this class only.
        spoilt: What an import did in earnest that its trials had not shown; empty: nothing.
        data: Files that were read beside modules.
        reads: Names of variables of the environment that were asked for.
        sets: What vouched units have set in the environment; None: removed.
    """

    shared: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    postponed: dict[str, str] = field(default_factory=dict)
    spoilt: str = ""
    data: set[str] = field(default_factory=set)
    reads: set[str] = field(default_factory=set)
    sets: dict[str, str | None] = field(default_factory=dict)


class Prover:
    """Carries out one wish in this process."""

    def __init__(self, wish: Wish) -> None:
        """Takes the wish."""
        self._wish = wish
        seen = {name for unit in wish.units for name in unit.modules} | sys.modules.keys()
        # What an operator names may import whatever it does.
        self._allowed = seen if wish.own else set()
        self._give_up = time.monotonic() + _PATIENCE
        # What trials have shown so far: modules that speak against themselves, and who imports whom.
        self._guilty: dict[str, list[Finding]] = {}
        self._importers: dict[str, set[str]] = {}
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Proves and imports."""
        wish = self._wish
        installed = [unit for unit in wish.units if unit.place is Place.INSTALLED and unit.name not in wish.refused]
        for unit in (unit for unit in installed if unit.name in wish.vouched):
            self._share([unit])
        if wish.own and wish.share is Share.PROVEN and wish.own not in wish.refused:
            self._share([Unit(wish.own, Place.OWN, [wish.own])])
        self._share([unit for unit in installed if not _is_loaded(unit)])
        if wish.share is Share.PROVEN:
            self._share([unit for unit in self._single_modules() if not _is_loaded(unit)])
        return self.outcome

    def _single_modules(self) -> list[Unit]:
        """Modules of the class's own code apart from that of the class itself, one by one."""
        units = [unit for unit in self._wish.units if unit.place is not Place.INSTALLED]
        # A module cannot be imported without the packages around it.
        out = {self._wish.own, *self._wish.refused, *self.outcome.refused}
        names = [name for unit in units for name in reversed(unit.modules)]
        return [Unit(name, Place.OWN, [name]) for name in names if not out & set(_with_packages(name))]

    def _share(self, units: list[Unit]) -> None:
        """Imports those that may be shared, and refuses the others."""
        while units := self._without_blamed(units):
            findings = self._try(units) or self._import(units)
            if not findings:
                self.outcome.shared.extend(unit.name for unit in units)
                return
            if len(units) == 1:
                self._refuse(units[0], findings, _words(findings))
                return
            left = self._without_blamed(units)
            if len(left) == len(units):
                # Nobody knows who did it.
                half = len(units) // 2
                self._share(units[:half])
                left = units[half:]
            units = left

    def _without_blamed(self, units: list[Unit]) -> list[Unit]:
        """Refuses the units that are to blame for something, or import what is."""
        source = _spread(self._guilty.keys(), self._importers)
        left = []
        for unit in units:
            module = next((module for module in unit.modules if module in source), None)
            if module is None:
                left.append(unit)
                continue
            cause = source[module]
            why = _words(self._guilty[cause])
            self._refuse(unit, self._guilty[cause], why if cause in unit.modules else f"it imports {cause}: {why}")
        return left

    def _refuse(self, unit: Unit, findings: list[Finding], why: str) -> None:
        passing = all(finding.passing for finding in findings)
        (self.outcome.postponed if passing else self.outcome.refused)[unit.name] = why

    def _try(self, units: list[Unit]) -> list[Finding]:
        """What speaks against sharing them."""
        known = self._wish.proven | self._wish.vouched
        if all(unit.name in known for unit in units):
            return []
        if time.monotonic() > self._give_up:
            return [Finding(f"it was not proven within {_PATIENCE:.0f} s", passing=True)]
        try:
            wanted = [name for unit in units for name in unit.modules]
            first, second = trial.twice(wanted, self._wish.memory, self._wish.varying, self._wish.directory)
        except TrialFailed as failure:
            return [Finding(str(failure), passing=failure.passing)]
        findings = [finding for finding in compare(first, second, self._allowed) if not self._is_vouched(finding.module)]
        for importer, imported in first.imports.items():
            for name in imported:
                self._importers.setdefault(name, set()).add(importer)
        for finding in findings:
            if finding.module:
                self._guilty.setdefault(finding.module, []).append(finding)
        if not findings:
            self.outcome.data.update(first.files)
            self.outcome.reads.update(first.reads)
        return findings

    def _is_vouched(self, module: str) -> bool:
        return any(name in self._wish.vouched for name in _with_packages(module))

    def _import(self, units: list[Unit]) -> list[Finding]:
        """Imports them for good, and looks whether they do in earnest what they did when they were tried."""
        vouched = all(self._is_vouched(unit.name) for unit in units)
        snapshot, names = None if vouched else Snapshot(), frozenset(sys.modules)
        environment = Environment.watch()
        error = ""
        try:
            for unit in units:
                for name in unit.modules:
                    importlib.import_module(name)
        except BaseException as raised:
            error = f"it cannot be imported by itself: {describe(raised)}"
        finally:
            environment.stop()
        # Threads that end themselves at a fork have ended then.
        settle()
        changes = [error] if error else [] if snapshot is None else list(snapshot.changes())
        if changes and not vouched:
            self.outcome.spoilt = f"{', '.join(unit.name for unit in units)}: {'; '.join(changes[:_NAMED])}"
        new = [getattr(module, "__file__", None) or "" for name, module in modules() if name not in names]
        reads = {*environment.reads, *names_in_libraries([file for file in new if ".so" in file])}
        # What differs from agent to agent anyway is what was vouched for.
        self.outcome.reads |= reads - self._wish.varying if vouched else reads
        self.outcome.sets |= environment.writes
        return [Finding(error)] if error else []


def compare(first: Report, second: Report, allowed: set[str]) -> list[Finding]:
    """What speaks against sharing what two trials imported; nothing: it may be shared.

    Args:
        first: Of one trial.
        second: Of the other.
        allowed: Modules that may be there afterwards; none: any.
    """
    findings = list(dict.fromkeys(first.findings))
    findings += [finding for finding in second.findings if finding not in first.findings]
    unseen = [name for name in first.modules if allowed and name not in allowed]
    findings += [Finding(f"it imports {name}, which agents of this class do not", name, passing=True) for name in unseen]
    names = first.digests.keys() | second.digests.keys()
    differ = sorted(name for name in names if first.digests.get(name) != second.digests.get(name))
    findings += [Finding(f"{name} differs from process to process", _module_of(name, first.modules)) for name in differ]
    return findings


def _spread(guilty: Iterable[str], importers: dict[str, set[str]]) -> dict[str, str]:
    """Modules that import what is guilty, by whatever way, and the guilty one that each leads to."""
    source = {module: module for module in guilty}
    todo = list(source)
    while todo:
        module = todo.pop()
        for importer in importers.get(module, ()):
            if importer not in source:
                source[importer] = source[module]
                todo.append(importer)
    return source


def _is_loaded(unit: Unit) -> bool:
    return all(name in sys.modules for name in unit.modules)


def _words(findings: list[Finding]) -> str:
    named = "; ".join(finding.text[:_LONGEST] for finding in findings[:_NAMED])
    return f"{named}; {len(findings) - _NAMED} more" if len(findings) > _NAMED else named


def _module_of(name: str, modules: list[str]) -> str:
    """The module that holds a name."""
    return next((prefix for prefix in reversed(list(_with_packages(name))) if prefix in modules), "")


def _with_packages(name: str) -> Iterator[str]:
    """A module and the packages that are imported before it."""
    parts = name.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts) + 1))
