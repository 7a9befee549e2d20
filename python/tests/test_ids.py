"""Ids of messages: agents that share a machine id never make the same one, and each makes them in order."""

import multiprocessing
import subprocess
import sys
from typing import Any

import pytest

from rustic_ai.core.utils import GemstoneGenerator, GemstoneID, Priority
from rustic_ai.k8s.runtime import ids

_COUNT = 5_000
_AGENTS = 4


def _of_an_agent(share: int, begin: Any, made: Any) -> None:
    """What an agent makes in a process of its own, as fast as it can."""
    ids.install(7, share)
    generator = GemstoneGenerator(7)
    begin.wait()
    made.put((share, [generator.get_id(Priority.NORMAL).to_int() for _ in range(_COUNT)]))


def _made_at_once(agents: int) -> list[list[int]]:
    spawn = multiprocessing.get_context("spawn")
    begin, made = spawn.Barrier(agents), spawn.Queue()
    processes = [spawn.Process(target=_of_an_agent, args=(share, begin, made)) for share in range(agents)]
    for process in processes:
        process.start()
    by_share = dict(made.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    return [by_share[share] for share in range(agents)]


def test_rustic_ais_own_generators_make_the_same_ids_for_agents_that_share_a_machine_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Why shares are needed."""
    monkeypatch.setattr("time.time_ns", lambda: 1_800_000_000_000_000_000)
    first, second = (GemstoneGenerator(7).get_id(Priority.NORMAL).to_int() for _ in range(2))
    assert first == second


def test_agents_that_share_a_machine_id_make_no_id_twice_and_each_makes_them_in_order() -> None:
    made = _made_at_once(_AGENTS)
    assert len({number for of_one in made for number in of_one}) == _AGENTS * _COUNT
    assert all(of_one == sorted(of_one) for of_one in made)
    # What others read of them is what it always was.
    some = GemstoneID.from_int(made[1][0])
    assert (some.machine_id, some.priority, some.sequence_number // ids.SIZE) == (7, Priority.NORMAL, 2)


_THREADS = """
import sys, threading, time
from rustic_ai.core.messaging.core import dead_letter
from rustic_ai.core.utils import GemstoneGenerator, Priority
from rustic_ai.k8s.runtime import ids
ids.install(7, 3)
sys.setswitchinterval(1e-5)
own, more, made = GemstoneGenerator(7), GemstoneGenerator(7), []
def work(generator):
    mine = [generator.get_id(Priority.NORMAL).to_int() for _ in range(3000)]
    assert mine == sorted(mine)
    made.extend(mine)
generators = (own, own, more, dead_letter._DEAD_LETTER_GENERATOR)
threads = [threading.Thread(target=work, args=(generator,)) for generator in generators]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(set(made)) == len(made) == 12000, len(set(made))
print("fine")
"""

_CLOCK = """
import time
from rustic_ai.core.utils import GemstoneGenerator, Priority
from rustic_ai.k8s.runtime import ids
ids.install(7, 0)
real, ahead = time.time_ns, 3600 * 10**9
time.time_ns = lambda: real() + ahead
generator = GemstoneGenerator(7)
made = [generator.get_id(Priority.NORMAL).to_int() for _ in range(100)]
ahead = 0
made += [generator.get_id(Priority.NORMAL).to_int() for _ in range(1000)]
assert made == sorted(set(made))
print("fine")
"""


@pytest.mark.parametrize("program", [_THREADS, _CLOCK], ids=["threads", "clock"])
def test_no_id_is_made_twice_by_threads_nor_when_the_clock_goes_back(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "fine", done.stderr


def test_a_share_that_is_not_there_is_an_error() -> None:
    for share in (-1, ids.SHARES):
        with pytest.raises(ValueError, match="63 shares"):
            ids.install(7, share)


def test_every_share_of_every_machine_id_has_its_own_numbers() -> None:
    first = [(share + 1) * ids.SIZE for share in range(ids.SHARES)]
    assert first[0] == 64 and first[-1] + ids.SIZE == 4096 and len(set(first)) == 63
