"""The picture that the README shows."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

_OURS, _PEER = "#1f6feb", "#9aa4b0"
# What a bar shows: measurement, figure, title, and how its value is written.
_BARS = [
    ("one_by_one", "p50_ms", "create → ready, one by one\n(ms, median, log scale)", "{:.0f} ms"),
    ("burst", "per_second", "100 agents at once\n(agents a second, log scale)", "{:.1f}/s"),
    ("memory", "pss_mb_per_agent", "memory of an idle agent\n(MB PSS, shared parts included)", "{:.1f} MB"),
]


def draw(rows: dict[str, list[dict[str, Any]]], machine: dict[str, Any], folder: Path) -> None:
    """Writes `benchmarks.png` and `benchmarks.svg`."""
    plt.rcParams["svg.hashsalt"] = "rustic"  # the same figures give the same file
    figure, axes = plt.subplots(1, len(_BARS), figsize=(13, 3.4))
    for axis, (name, value, title, text) in zip(axes, _BARS):
        shown = list(reversed(rows[name]))
        labels = [_label(name, row) for row in shown]
        colors = [_OURS if row["name"].startswith("ours") else _PEER for row in shown]
        bars = axis.barh(labels, [row[value] for row in shown], color=colors)
        axis.bar_label(bars, [text.format(row[value]) for row in shown], padding=3, fontsize=8)
        if name != "memory":
            axis.set_xscale("log")
        axis.margins(x=0.25)
        axis.set_title(title, fontsize=10)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    about = f"one run on {machine['cores']} cores, {machine['memory_gb']} GB, {machine['date']}, {machine['commit']}"
    figure.text(0.995, 0.01, about, ha="right", fontsize=7, color="#666666")
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    for kind in ("png", "svg"):
        figure.savefig(folder / f"benchmarks.{kind}", dpi=130, metadata={"Date": None} if kind == "svg" else None)


def _label(name: str, row: dict[str, Any]) -> str:
    return f"{row['name']}, n={row['n']}" if name == "memory" else str(row["name"])
