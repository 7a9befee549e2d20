"""Figures of one measurement, and how they are written."""

from collections.abc import Callable, Iterable
import json
import math
import sys
from typing import Any


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def times(name: str, seconds: list[float], **more: Any) -> dict[str, Any]:
    """A row of durations, in milliseconds."""
    row = {
        "name": name,
        "n": len(seconds),
        "p50_ms": round(percentile(seconds, 0.50) * 1000, 3),
        "p99_ms": round(percentile(seconds, 0.99) * 1000, 3),
    }
    return row | more


def rate(name: str, count: int, seconds: float, **more: Any) -> dict[str, Any]:
    """A row of a rate, per second."""
    return {"name": name, "n": count, "seconds": round(seconds, 3), "per_second": round(count / seconds, 2)} | more


def carry_out(measures: dict[str, Callable[[int], Any]]) -> None:
    """Measures what the first argument asks for, a JSON object such as `{"burst": [100]}`, and prints the rows as the
    last line of output, where `rustic_bench.__main__` reads them."""
    plan = json.loads(sys.argv[1])
    rows: dict[str, list[Any]] = {}
    for name, counts in plan.items():
        for count in counts:
            measured = measures[name](count)
            rows.setdefault(name, []).extend(measured if isinstance(measured, list) else [measured])
    print(json.dumps(rows), flush=True)
