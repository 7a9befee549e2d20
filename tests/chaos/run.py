"""A run: agents are created, nemeses strike one after the other, and what was recorded is judged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
import subprocess
import time

import grpc

from chaos import checker
from chaos.agents import Name
from chaos.checker import Life, Overlap, Request
from chaos.nemeses import catalogue
from chaos.nemesis import Nemesis
from chaos.network import Missing, boottime
from chaos.scene import Scene
from chaos.waiting import NeverHappened
from chaos.watch import Watch

# What a strike may run into; anything else is a mistake in the harness and ends the run.
_EXPECTED = (NeverHappened, grpc.RpcError, subprocess.TimeoutExpired, OSError)
_CREATE, _STOP = 90.0, 60.0
# Requests that were answered more than once, and by which processes.
type Duplicated = dict[Request, Sequence[int]]


@dataclass
class Strike:
    """One strike and what came of it.

    Attributes:
        nemesis: Its name.
        struck: When, nanoseconds of CLOCK_BOOTTIME.
        recovery: Seconds until every agent ran again; None if that did not happen in time.
        forgotten: Agents that were forgotten, and how they were.
        faults: What else went wrong, in words.
    """

    nemesis: str
    struck: int
    recovery: float | None = None
    forgotten: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


@dataclass
class Outcome:
    """What a run found; lifelines are judged when all processes have ended."""

    strikes: list[Strike]
    overlaps: list[Overlap]
    outlived: list[Life]
    requests: list[Request]
    lost: list[Request]
    duplicated: Duplicated
    lives: int
    slowed_by: str


class Run:
    """One run over a stack that has started."""

    def __init__(self, scene: Scene, bound: float, log: Callable[[str], None]) -> None:
        """Prepares it.

        Args:
            scene: The stack and its agents, none of which exists yet.
            bound: Seconds that agents get to recover after a nemesis healed.
            log: Takes lines for people.
        """
        self._scene = scene
        self._bound = bound
        self._log = log
        self._watch = Watch(scene.agents)
        self._strikes: list[Strike] = []

    def create(self, names: list[Name]) -> None:
        """Creates the agents and waits until all of them run."""
        for name in names:
            self._scene.agents.create(name, _CREATE)
        began = boottime()
        self._watch.start()
        self._watch.wait_until_well(began, self._bound)
        self._scene.producer.add(names)
        self._scene.producer.start()
        self._scene.producer.wait_for_answers(names, began, self._bound)

    def strike(self, nemesis: Nemesis) -> None:
        """Has one nemesis strike, waits until all is well, and notes what came of it."""
        strike = Strike(nemesis.name, boottime())
        self._strikes.append(strike)
        self._scene.faults = strike.faults
        for step in (nemesis.strike, lambda: time.sleep(nemesis.hold), nemesis.heal):
            self._attempt(step)
        self._recover(strike)
        self._attempt(nemesis.after)
        took = "did not recover" if strike.recovery is None else f"well again after {strike.recovery:.1f} s"
        self._log(f"{nemesis.name:<20} {took}")
        for words in (*strike.faults, *(f"{agent} forgotten: {how}" for agent, how in strike.forgotten.items())):
            self._log(f"    {words}")

    def _attempt(self, step: Callable[[], None]) -> bool:
        try:
            step()
        except _EXPECTED as error:
            self._scene.faults.append(f"{type(error).__name__}: {error}")
            return False
        return True

    def _recover(self, strike: Strike) -> None:
        scene, healed = self._scene, boottime()
        self._revive()
        if self._attempt(lambda: self._watch.wait_until_well(healed, self._bound)):
            strike.recovery = checker.recovery_seconds(strike.struck, self._watch.looks)
        else:
            self._revive()
            try:
                strike.forgotten = checker.forgotten(list(scene.agents.accepted), scene.agents.look(self._bound))
            except grpc.RpcError as error:
                strike.faults.append(f"nobody can say how the agents are: {error.details()}")
        self._attempt(scene.stack.wait_until_complete)
        self._attempt(lambda: scene.producer.wait_for_answers(scene.names(), healed, self._bound))

    def _revive(self) -> None:
        """Starts programs that ended by themselves, as Kubernetes would; that they did is a fault."""
        for program in self._scene.stack.programs:
            if not program.running:
                self._scene.faults.append(f"{program.name} ended by itself; see {program.log.name}")
                program.start()

    def end(self) -> None:
        """Waits for the last answers, then stops every agent."""
        scene = self._scene
        last = Strike("end", boottime())
        scene.faults = last.faults
        scene.producer.stop()
        names = scene.names()
        self._attempt(lambda: scene.producer.wait_for_all(names, self._bound))
        self._watch.stop()
        for guild in sorted({name.guild for name in names}):
            self._attempt(partial(scene.agents.stop_guild, guild, _STOP))
        last.faults += scene.producer.faults
        for words in last.faults:
            self._log(f"    {words}")
        if last.faults:
            self._strikes.append(last)

    def abandon(self) -> None:
        """Ends the threads of this run. Idempotent."""
        self._scene.producer.stop()
        self._watch.stop()

    def answers(self) -> tuple[list[Request], list[Request], Duplicated]:
        """All requests, those lost, those answered more than once. The bus must still run."""
        producer = self._scene.producer
        guilds = {request.agent.partition("/")[0] for request in producer.requests}
        answers = producer.answers(guilds)
        requests = producer.requests
        return requests, checker.lost(requests, answers), checker.duplicated(requests, answers)

    def judge(self, answered: tuple[list[Request], list[Request], Duplicated]) -> Outcome:
        """Judges what was recorded. Every process must have ended, so that no lifeline grows any more."""
        lives = self._scene.agents.lives()
        overlaps = checker.overlaps(lives, self._scene.pauses)
        outlived = checker.outlived(lives, self._scene.agents.stopped)
        slowed_by = self._scene.stack.network.slowed_by
        return Outcome(self._strikes, overlaps, outlived, *answered, lives=len(lives), slowed_by=slowed_by)


def order(scene: Scene, names: Sequence[str], rounds: int) -> list[Nemesis]:
    """The nemeses of these names in the order of chance, each once a round.

    Raises:
        Missing: There is no nemesis of a name.
    """
    known = catalogue(scene)
    if unknown := sorted(set(names) - set(known)):
        raise Missing(f"no nemesis is called {', '.join(unknown)}; there are {', '.join(known)}")
    chosen: list[Nemesis] = []
    for _ in range(rounds):
        chosen += [known[name] for name in scene.chance.sample(list(names), len(names))]
    return chosen
