"""Memory and processor time of processes, from /proc."""

from collections.abc import Iterable
import os
from pathlib import Path
import time
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")


def memory_of(pids: Iterable[int]) -> dict[str, float]:
    """Sum over processes, in MB (10^6 bytes): `pss`, where shared pages are split among their users, and
    `private_dirty`, which nobody shares."""
    total = {"Pss": 0, "Private_Dirty": 0}
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, value = line.split(":")
            if name in total:
                total[name] += int(value.split()[0])
    return {"pss": total["Pss"] * 1024 / 1e6, "private_dirty": total["Private_Dirty"] * 1024 / 1e6}


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time that processes have used so far, all together."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def children(pid: int) -> list[int]:
    """Children of a process, whichever of its threads they hang on."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def descendants(pid: int) -> list[int]:
    """Children of a process, their children, and so on."""
    return [below for child in children(pid) for below in (child, *descendants(child))]


def name(pid: int) -> str:
    """Short name of a process."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


def idle_row(peer: str, agents: list[int], everything: list[int]) -> dict[str, Any]:
    """Memory and processor time of idle agents.

    Args:
        peer: Whose agents they are.
        agents: Their processes.
        everything: All processes whose memory counts, shared parts included.
    """
    time.sleep(3)  # not a race: what is measured is an agent that has nothing to do any more
    used, own = memory_of(everything), memory_of(agents)
    began, cpu = time.monotonic(), cpu_seconds(agents)
    time.sleep(20)
    share = (cpu_seconds(agents) - cpu) / (time.monotonic() - began)
    return {
        "name": peer,
        "n": len(agents),
        "pss_mb_per_agent": round(used["pss"] / len(agents), 2),
        "private_dirty_mb_per_agent": round(own["private_dirty"] / len(agents), 2),
        "idle_core_percent_per_agent": round(share / len(agents) * 100, 4),
    }
