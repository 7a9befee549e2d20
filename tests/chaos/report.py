"""What is reported about a run: rows of figures, a table of them, and JSON."""

from collections import Counter
import datetime
import json
from pathlib import Path
import platform
import statistics
import os
import subprocess
from typing import Any

from chaos.checker import belongs_to
from chaos.run import Outcome, Strike

# Overlaps after everything on a host was frozen and thawed may last so long: the limit that docs/guarantees.md names.
# Half a second leaves room for a machine that is short of processors; what was measured is in the table.
THAW_ALLOWANCE_MS = 500.0
Row = dict[str, Any]
_COLUMNS = {
    "nemesis": "nemesis",
    "strikes": "strikes",
    "faults": "faults",
    "overlaps": "overlaps",
    "longest_ms": "longest overlap, ms",
    "thaws": "after a thaw",
    "overlap_ms": "overlap_ms",
    "forgotten": "forgotten",
    "lost": "lost answers",
    "duplicated": "answered twice",
    "recovery_p50_s": "recovery median, s",
    "recovery_max_s": "recovery max, s",
}


def rows(outcome: Outcome) -> list[Row]:
    """One row for each nemesis, and the sum of all."""
    strikes = outcome.strikes
    starts = [strike.struck for strike in strikes]

    def of(at: int) -> str:
        return strikes[belongs_to(at, starts)].nemesis

    lost = Counter(of(request.sent) for request in outcome.lost)
    duplicated = Counter(of(request.sent) for request in outcome.duplicated)
    table = []
    for name in dict.fromkeys(strike.nemesis for strike in strikes):
        own = [strike for strike in strikes if strike.nemesis == name]
        found = [overlap for overlap in outcome.overlaps if of(overlap.at) == name]
        lengths = [overlap.length_ms for overlap in found if not overlap.thaw]
        thaws = [overlap.length_ms for overlap in found if overlap.thaw]
        table.append(_row(name, own, lengths, thaws) | {"lost": lost[name], "duplicated": duplicated[name]})
    return [*table, _all(table, strikes, len(outcome.outlived))]


def _row(name: str, strikes: list[Strike], lengths: list[float], thaws: list[float]) -> Row:
    return {
        "nemesis": name,
        "strikes": len(strikes),
        "faults": sum(len(strike.faults) for strike in strikes),
        "overlaps": len(lengths),
        "longest_ms": round(max(lengths, default=0.0), 1),
        "thaws": len(thaws),
        "overlap_ms": round(max(thaws, default=0.0), 1),
        "forgotten": sum(len(strike.forgotten) for strike in strikes),
    } | _recovery(strikes)


def _recovery(strikes: list[Strike]) -> Row:
    seconds = [strike.recovery for strike in strikes if strike.recovery is not None]
    if not seconds:
        return {"recovery_p50_s": None, "recovery_max_s": None}
    return {"recovery_p50_s": round(statistics.median(seconds), 1), "recovery_max_s": round(max(seconds), 1)}


def _all(table: list[Row], strikes: list[Strike], outlived: int) -> Row:
    summed = ("strikes", "faults", "overlaps", "thaws", "forgotten", "lost", "duplicated")
    row: Row = {"nemesis": "all"} | {key: sum(row[key] for row in table) for key in summed}
    row["faults"] += outlived
    row |= {key: max((row[key] for row in table), default=0.0) for key in ("longest_ms", "overlap_ms")}
    return row | _recovery(strikes)


def failures(outcome: Outcome) -> list[str]:
    """Why the run has failed, in words; empty: it has not."""
    words = [f"{strike.nemesis}: {fault}" for strike in outcome.strikes for fault in strike.faults]
    for strike in outcome.strikes:
        words += [f"{strike.nemesis}: {agent} is forgotten: {how}" for agent, how in strike.forgotten.items()]
    for overlap in outcome.overlaps:
        if not overlap.thaw or overlap.length_ms > THAW_ALLOWANCE_MS:
            older, newer = overlap.older, overlap.newer
            lives = f"epoch {older[0]} pid {older[1]} and epoch {newer[0]} pid {newer[1]}"
            words.append(f"{overlap.agent} lived twice for {overlap.length_ms:.1f} ms: {lives}")
    words += [f"{life.agent} pid {life.pid} lived on after it was stopped" for life in outcome.outlived]
    words += [f"{request.agent} never answered request {request.number}" for request in outcome.lost]
    return words


def table(rows: list[Row]) -> str:
    """Rows as a Markdown table."""
    shown = {key: title for key, title in _COLUMNS.items() if all(key in row for row in rows)}
    body = [["–" if row[key] is None else str(row[key]) for key in shown] for row in rows]
    head = list(shown.values())
    widths = [max(len(line[column]) for line in [head, *body]) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *body]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def document(outcome: Outcome, about: Row) -> Row:
    """Everything about a run, for JSON."""
    return {
        "about": about | _machine() | {"slowed_by": outcome.slowed_by, "lives": outcome.lives},
        "requests": len(outcome.requests),
        "rows": rows(outcome),
        "failures": failures(outcome),
        "overlaps": [vars(overlap) for overlap in outcome.overlaps],
        "strikes": [vars(strike) for strike in outcome.strikes],
        "answered_twice": [vars(request) | {"pids": pids} for request, pids in outcome.duplicated.items()],
    }


def write(path: Path, written: Row) -> None:
    """Writes a document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(written, indent=1) + "\n")


def _machine() -> Row:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return {
        "cores": os.cpu_count(),
        "kernel": platform.release().split("-")[0],
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip(),
    }
