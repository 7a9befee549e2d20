"""Runs the cases of `test_framework.py` on several engines and prints what passes where, as a table for the
documentation.

Usage: framework_table.py ENGINE=PYTHON ..., under a stack that `engine-svc dev` has brought up. `make framework-table`
    does it.
"""

import contextlib
import os
from pathlib import Path
import signal
import subprocess
import sys
import tempfile
import time
from xml.etree import ElementTree

CASES = Path(__file__).with_name("test_framework.py")
NAMES = {
    "sync": "Sync, in memory",
    "multiprocess": "MultiProcess, Redis",
    "ray": "Ray, Redis",
    "k8s": "this one, Redis",
}


def outcomes(engine: str, python: str) -> dict[str, str]:
    """Runs all cases on one engine.

    Args:
        engine: A name that `test_framework.py` knows.
        python: An interpreter that has it.

    Returns:
        `yes` or `no` for each case.

    Raises:
        RuntimeError: They could not be run at all.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}", str(CASES)]
        # MultiProcess runs no more agents than there are processors; the table is to compare engines, not machines.
        environment = {**os.environ, "RUSTIC_TEST_ENGINE": engine, "PYTHON_CPU_COUNT": "8"}
        process = subprocess.Popen(command, env=environment, stdout=sys.stderr, start_new_session=True)
        # The report is written at the end. Engines whose agents are children of pytest keep it waiting for them after
        # that.
        while process.poll() is None and not _whole(report):
            time.sleep(0.5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
        if not _whole(report):
            raise RuntimeError(f"pytest ended with {status} and no report for {engine}")
        cases = ElementTree.parse(report).iter("testcase")
        return {case.attrib["name"]: "no" if len(case) else "yes" for case in cases}


def _whole(report: Path) -> bool:
    return report.exists() and report.read_text().rstrip().endswith("</testsuites>")


def table(columns: dict[str, dict[str, str]]) -> str:
    """A Markdown table with a line for each case and a column for each engine."""
    heads = ["case", *(NAMES[engine] for engine in columns)]
    lines = [heads, ["---"] * len(heads)]
    for case in next(iter(columns.values())):
        area, _, words = case.removeprefix("test_").partition("_")
        lines.append(
            [f"{area}: {words.replace('_', ' ')}", *(column.get(case, "not run") for column in columns.values())]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    pairs = dict(argument.split("=", 1) for argument in sys.argv[1:])
    print(table({engine: outcomes(engine, python) for engine, python in pairs.items()}))
