"""What broke a promise: decides from what was recorded. Pure: no clock, no file, no network.

All times are nanoseconds of CLOCK_BOOTTIME, which all processes of the machine share.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

# Phases in which an agent is not forgotten although it has no process.
_WAITING = ("PENDING", "FAILED")


@dataclass(frozen=True)
class Life:
    """One process of an agent.

    Attributes:
        agent: `guild/agent`.
        epoch: Its fencing token.
        pid: Process id.
        ticks: When it was seen alive, by itself, in order; never empty.
    """

    agent: str
    epoch: int
    pid: int
    ticks: Sequence[int]

    @property
    def start(self) -> int:
        """First tick."""
        return self.ticks[0]

    @property
    def end(self) -> int:
        """Last tick."""
        return self.ticks[-1]


@dataclass(frozen=True)
class Pause:
    """A time in which processes were stopped and could do nothing.

    Attributes:
        pids: Whose time.
        began: When all of them had stopped.
        ended: Before the first of them was let go on.
        whole: Whether everything on their host was stopped, its watchdog included.
        deaths: When those ended, by process id, that ended soon after.
    """

    pids: frozenset[int]
    began: int
    ended: int
    whole: bool
    deaths: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Overlap:
    """Two lives of one agent at once.

    Attributes:
        agent: `guild/agent`.
        older: Epoch and process id of the life that was there first.
        newer: Those of the other.
        at: When the second was there.
        length_ms: How long both ran, without the time in which one of them was stopped.
        thaw: Whether the older was stopped together with its watchdog when the newer began: the limit that
            docs/guarantees.md names.
    """

    agent: str
    older: tuple[int, int]
    newer: tuple[int, int]
    at: int
    length_ms: float
    thaw: bool


def overlaps(lives: Iterable[Life], pauses: Sequence[Pause]) -> list[Overlap]:
    """Finds every pair of lives of one agent of which the older still was when the newer first ticked.

    A life ends with its last tick; one that ended after a pause, when its death was seen: it may have been too busy to
    tick.
    """
    deaths = {pid: at for pause in pauses for pid, at in pause.deaths.items()}
    by_agent: dict[str, list[Life]] = {}
    for life in lives:
        by_agent.setdefault(life.agent, []).append(life)
    found = []
    for of_agent in by_agent.values():
        for older, newer in combinations(sorted(of_agent, key=lambda life: life.start), 2):
            end = max(older.end, deaths.get(older.pid, 0))
            if end > newer.start:
                found.append(_overlap(older, newer, end, pauses))
    return sorted(found, key=lambda overlap: overlap.at)


def _overlap(older: Life, newer: Life, end: int, pauses: Sequence[Pause]) -> Overlap:
    began, ended = newer.start, min(end, newer.end)
    stopped = [p for p in pauses if older.pid in p.pids or newer.pid in p.pids]
    thaw = any(p.whole and older.pid in p.pids and p.began <= began <= p.ended for p in pauses)
    length = ended - began - _covered(stopped, began, ended)
    keys = (older.epoch, older.pid), (newer.epoch, newer.pid)
    return Overlap(older.agent, *keys, at=began, length_ms=max(0, length) / 1e6, thaw=thaw)


def _covered(pauses: Iterable[Pause], began: int, ended: int) -> int:
    """How much of a time pauses cover together."""
    total, until = 0, began
    for pause in sorted(pauses, key=lambda pause: pause.began):
        start, stop = max(pause.began, until), min(pause.ended, ended)
        if stop > start:
            total, until = total + stop - start, stop
    return total


def outlived(lives: Iterable[Life], stopped: Mapping[str, int]) -> list[Life]:
    """Finds lives that ticked after StopAgent or StopGuild had answered OK for their agent."""
    return [life for life in lives if life.agent in stopped and life.end > stopped[life.agent]]


@dataclass(frozen=True)
class Seen:
    """What ListAgents and the lifelines say of an agent.

    Attributes:
        phase: Its phase without prefix, such as `RUNNING`.
        reason: Why it is in this phase.
        live: Whether the process that the registry names writes its lifeline.
    """

    phase: str
    reason: str = ""
    live: bool = False

    @property
    def well(self) -> bool:
        """Whether it runs, on paper and in fact."""
        return self.phase == "RUNNING" and self.live


def forgotten(expected: Iterable[str], seen: Mapping[str, Seen]) -> dict[str, str]:
    """Finds agents that are neither running, nor PENDING, nor FAILED with a reason; says of each how it is instead."""
    found = {}
    for agent in expected:
        now = seen.get(agent)
        if now is None:
            found[agent] = "not listed"
        elif now.phase == "RUNNING" and not now.live:
            found[agent] = "RUNNING without a live process"
        elif not now.well and not (now.phase == "PENDING" or (now.phase in _WAITING and now.reason)):
            found[agent] = f"still {now.phase}, reason {now.reason!r}"
    return found


@dataclass(frozen=True)
class Request:
    """A numbered message to an agent.

    Attributes:
        agent: `guild/agent`.
        number: Unique for this agent.
        sent: When the bus had taken it.
    """

    agent: str
    number: int
    sent: int


# Process ids of those that answered, by agent and number; one that answered twice is there twice.
type Answers = Mapping[tuple[str, int], Sequence[int]]


def lost(requests: Iterable[Request], answers: Answers) -> list[Request]:
    """Requests that were never answered."""
    return [request for request in requests if not answers.get((request.agent, request.number))]


def duplicated(requests: Iterable[Request], answers: Answers) -> dict[Request, Sequence[int]]:
    """Requests that were answered more than once, and by which processes."""
    pids = {request: answers.get((request.agent, request.number), ()) for request in requests}
    return {request: by for request, by in pids.items() if len(by) > 1}


def recovery_seconds(struck: int, looks: Sequence[tuple[int, bool]]) -> float:
    """Time from a strike to the first look from which on all was well; 0 if nothing was ever seen amiss.

    Args:
        struck: When.
        looks: Times at which somebody looked, in order, and whether every agent was well. The last one is a good one.
    """
    amiss = [index for index, (at, well) in enumerate(looks) if at >= struck and not well]
    if not amiss:
        return 0.0
    after = min(amiss[-1] + 1, len(looks) - 1)
    return (looks[after][0] - struck) / 1e9


def belongs_to(at: int, starts: Sequence[int]) -> int:
    """Index of the strike to whose time a moment belongs: the last that began before it, else the first."""
    return max(0, bisect_right(starts, at) - 1)
