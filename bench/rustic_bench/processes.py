"""Memory and processor time of processes, from /proc."""

from collections.abc import Iterable
import os
from pathlib import Path

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
