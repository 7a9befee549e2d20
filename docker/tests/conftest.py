"""One stack for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path
import sys

import pytest

HERE = Path(__file__).resolve().parent
# What reads manifests and sources is the same as in the checks without Docker.
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "deploy/tests")]

from stack import HOSTS, Stack, running, wait_until


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The stack, when all its hosts take agents."""
    with running() as stack:
        wait_until("all hosts are ready", lambda: stack.ready_hosts() == set(HOSTS), 90)
        yield stack
