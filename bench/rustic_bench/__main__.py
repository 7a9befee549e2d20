"""Runs every benchmark of this machine in one run, prints tables and writes `bench/results/`.

    python -m rustic_bench [--quick] [--only confinement]

`--quick` measures a tenth of everything, to see that it works; its figures mean nothing. `--only confinement` measures only what it costs to
confine agents.
"""

import argparse
import datetime
import json
import os
from pathlib import Path
import platform
import statistics
import subprocess
import sys
from typing import Any

from rustic_bench import plot, report

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"
BIN = ROOT / "target" / "release"
Rows = dict[str, list[dict[str, Any]]]


def _stack(*command: str, hosts: int = 1, python: str = "", **settings: str) -> Rows:
    """Runs a command within a fresh stack, whose Redis serves peers as well; returns its rows.

    Args:
        command: What to run.
        hosts: Hosts of the stack.
        python: Interpreter of its agents; empty: the usual one.
        settings: More environment.
    """
    stack = [str(BIN / "engine-svc"), "dev", "--hosts", str(hosts), "--max-agents", "1200", "--listen", "127.0.0.1:0"]
    stack += ["--python", python] if python else []
    environment = os.environ | {"PYTHONPATH": str(ROOT / "bench"), **settings}
    print(f"… {' '.join(Path(word).name for word in command)}", file=sys.stderr, flush=True)
    done = subprocess.run([*stack, "--", *command], env=environment, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    # Peers may say something after it, as Ray does when it ends.
    *_, rows = (line for line in done.stdout.splitlines() if line.startswith(b"{"))
    return json.loads(rows)


def _peer(name: str, settings: dict[str, str] | None = None, **plan: list[int]) -> Rows:
    return _stack(sys.executable, "-m", f"rustic_bench.peers.{name}", json.dumps(plan), **(settings or {}))


def _imports(count: int) -> Rows:
    """Agents by what they import. litellm asks the network while it is imported, unless a variable forbids it, and keeps what
    differs from process to process; so its operator vouches for it."""
    settings = {"AGENT_HOST_SHARE_UNPROVEN": "litellm", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    plan = json.dumps({"imports": [count]})
    return _stack(sys.executable, "-m", "rustic_bench.peers.imports", plan, python=sys.executable, **settings)


def _load(measure: str, option: str, count: int, **settings: str) -> Rows:
    return _stack(str(BIN / "rustic-bench"), measure, option, str(count), **settings)


def _recovery(blow: str, count: int) -> Rows:
    return _stack(str(BIN / "rustic-bench"), "recovery", "--count", str(count), "--blow", blow, hosts=2)


# Pairs of stacks, one with confinement and one without; of each figure the median is kept.
_PAIRS = 5


def _confinement(count: int) -> Rows:
    """What it costs to confine agents: by turns, so that both meet the same machine."""
    figures: dict[str, list[dict[str, float]]] = {"off": [], "standard": []}
    for _ in range(_PAIRS):
        for level, measured in figures.items():
            settings = {"AGENT_HOST_CONFINEMENT": level}
            one_by_one = _load("one-by-one", "--count", count, **settings)
            step = {row["name"]: row["p50_ms"] for row in one_by_one["steps"]}
            measured.append({
                "create_p50_ms": one_by_one["one_by_one"][0]["p50_ms"],
                "fork_p50_ms": step["· fork"],
                "burst_per_second": _load("burst", "--count", count, **settings)["burst"][0]["per_second"],
                "pss_mb_per_agent": _peer("k8s", settings, memory=[count])["memory"][0]["pss_mb_per_agent"],
            })
    rows = [
        {"name": level, "n": count, "pairs": _PAIRS}
        | {name: round(statistics.median(one[name] for one in measured), 3) for name in measured[0]}
        for level, measured in figures.items()
    ]
    return {"confinement": rows}


def _measure(scale: int) -> Rows:
    """Everything. Whoever is compared is measured right after the other, so that both meet the same machine."""

    def n(count: int) -> list[int]:
        return [max(count // scale, 2)]

    parts = [
        _peer("k8s", one_by_one=n(50), burst=n(100)),
        _peer("floor", one_by_one=n(50), burst=n(100)),
        _load("one-by-one", "--count", n(50)[0]),
        _load("commands", "--count", n(200)[0]),
        _load("burst", "--count", n(100)[0]),
        _peer("multiprocess", one_by_one=n(50), burst=n(100)),
        _peer("ray", one_by_one=n(50), burst=n(100), memory=n(10), calls=n(100)),
        _peer("k8s", calls=n(500)),
        _peer("k8s", memory=[count for size in (10, 100, 500) for count in n(size)]),
        _peer("floor", memory=n(100)),
        _peer("messages", messages=n(1000)),
        _imports(n(30)[0]),
        _confinement(n(100)[0]),
        _load("density", "--guilds", n(50)[0]),
        _recovery("drain", n(100)[0]),
        _recovery("kill", n(100)[0]),
        _recovery("restart", n(100)[0]),
    ]
    rows: Rows = {}
    for part in parts:
        for name, more in part.items():
            rows.setdefault(name, []).extend(more)
    return rows


def _machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip(),
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="rustic_bench", description="Benchmarks beside the peers.")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything; the figures mean nothing")
    parser.add_argument("--only", choices=["confinement"], help="measure this only")
    arguments = parser.parse_args()
    quick, scale = arguments.quick, 10 if arguments.quick else 1
    rows = _confinement(100 // scale) if arguments.only else _measure(scale)
    report.add_ratios(rows)
    print(report.tables(rows))
    if quick:
        return
    RESULTS.mkdir(exist_ok=True)
    machine = _machine()
    for name, part in rows.items():
        (RESULTS / f"{name}.json").write_text(json.dumps({"machine": machine, "rows": part}, indent=1) + "\n")
    if not arguments.only:
        plot.draw(rows, machine, RESULTS)


if __name__ == "__main__":
    main()
