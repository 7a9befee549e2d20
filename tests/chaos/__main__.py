"""Runs chaos: `PYTHONPATH=tests python -m chaos [--quick]`. See README.md beside this file.

Exit codes: 0 every promise held, 1 one was broken, 2 the machine lacks something, 130 interrupted.
"""

import argparse
from pathlib import Path
import random
import shutil
import signal
import sys
import time
from types import FrameType

from chaos import report
from chaos.agents import Agents, Name
from chaos.nemeses import QUICK, usual
from chaos.network import Missing, check_machine
from chaos.producer import Producer
from chaos.run import Outcome, Run, order
from chaos.scene import Scene
from chaos.stack import ROOT, Settings, Stack, scratch

_LATEST = ROOT / "tests" / "chaos" / "results" / "latest.json"
_BEGAN = time.monotonic()


def _print(line: str) -> None:
    print(f"[{time.monotonic() - _BEGAN:5.0f} s] {line}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos", description="Hurts a real stack and checks what it promises.")
    parser.add_argument("--quick", action="store_true", help="short run for CI: short leases, few agents, fourteen nemeses")
    parser.add_argument("--seed", type=int, help="seed of order and victims; default: by chance, and printed")
    parser.add_argument("--rounds", type=int, default=1, help="how often each nemesis strikes")
    parser.add_argument("--only", action="append", metavar="NAME", help="only this nemesis; may be given several times")
    parser.add_argument("--agents", type=int, help="number of agents; default 30, quick 12")
    parser.add_argument("--lease-ttl", type=float, help="seconds; default 10, quick 4")
    parser.add_argument("--lease-margin", type=float, help="seconds; default 2, quick 1")
    parser.add_argument("--lease-grace", type=float, help="seconds; default 2, quick 1")
    parser.add_argument("--bound", type=float, default=120.0, help="seconds that agents get to recover after a heal")
    parser.add_argument("--appendfsync", choices=["always", "everysec"], default="always", help="of the registry")
    parser.add_argument("--binaries", type=Path, default=Settings.binaries, help="folder of engine-svc and agent-host")
    parser.add_argument("--output", type=Path, help=f"JSON file; default {_LATEST.relative_to(ROOT)}, quick none")
    parser.add_argument("--keep", action="store_true", help="keep the logs of a run that went well")
    return parser.parse_args()


def _settings(given: argparse.Namespace) -> Settings:
    ttl, margin, grace = (4.0, 1.0, 1.0) if given.quick else (10.0, 2.0, 2.0)
    return Settings(
        ttl=given.lease_ttl or ttl,
        margin=given.lease_margin or margin,
        grace=given.lease_grace or grace,
        fsync=given.appendfsync,
        binaries=given.binaries.resolve(),
    )


def _names(count: int) -> list[Name]:
    """Agents in three guilds."""
    return [Name(f"guild-{number % 3}", f"agent-{number // 3}") for number in range(count)]


def _chaos(given: argparse.Namespace, stack: Stack, seed: int) -> Outcome:
    """Starts the stack, hurts it, ends it, and judges."""
    run: Run | None = None
    try:
        stack.start()
        agents = Agents(stack.engine_addresses, stack.bus_address, stack.lifelines)
        producer = Producer(stack.bus_address, every=0.5 if given.quick else 1.0)
        scene = Scene(stack, agents, producer, random.Random(seed))
        nemeses = order(scene, given.only or (QUICK if given.quick else usual(scene)), given.rounds)
        run = Run(scene, given.bound, _print)
        names = _names(given.agents or (12 if given.quick else 30))
        run.create(names)
        _print(f"{len(names)} agents run on {len(stack.hosts)} hosts; {len(nemeses)} strikes follow")
        for nemesis in nemeses:
            run.strike(nemesis)
        run.end()
        answered = run.answers()
    finally:
        # Once more from here: whoever is impatient must not leave half of it behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if run is not None:
            run.abandon()
        stack.end()
    return run.judge(answered)


def _conclude(given: argparse.Namespace, settings: Settings, seed: int, outcome: Outcome) -> list[str]:
    """Prints and writes what was found; returns why the run has failed."""
    about = {
        "seed": seed,
        "rounds": given.rounds,
        "agents": given.agents or (12 if given.quick else 30),
        "lease": f"TTL {settings.ttl:g} s, margin {settings.margin:g} s, grace {settings.grace:g} s",
        "appendfsync": settings.fsync,
    }
    written = report.document(outcome, about)
    print(f"\n{report.table(written['rows'])}\n")
    print(f"{outcome.lives} lives of agents, {len(outcome.requests)} requests", flush=True)
    output = given.output or (None if given.quick or given.only else _LATEST)
    if output:
        report.write(output, written)
    return report.failures(outcome)


def _terminated(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Entry point; returns the exit code."""
    given = _arguments()
    seed = random.randrange(1 << 32) if given.seed is None else given.seed
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, _terminated)
    folder, done = scratch(), False
    try:
        check_machine()
        settings = _settings(given)
        print(f"seed {seed}; logs in {folder}", flush=True)
        outcome = _chaos(given, Stack(settings, folder), seed)
        failures = _conclude(given, settings, seed, outcome)
        for words in failures:
            print(f"FAILED {words}", file=sys.stderr)
        done = not failures
        return 0 if done else 1
    except Missing as missing:
        print(f"chaos cannot run here: {missing}", file=sys.stderr)
        done = True
        return 2
    except KeyboardInterrupt:
        print("interrupted; everything that was started has ended", file=sys.stderr)
        return 130
    finally:
        if done and not given.keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"logs are kept in {folder}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
