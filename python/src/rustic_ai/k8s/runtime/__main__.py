"""Cold start: a fresh interpreter for one agent."""

import time

from rustic_ai.k8s.runtime import life
from rustic_ai.k8s.runtime.host import HostSocket


def _process_age() -> float:
    """Seconds since this process began, to a hundredth."""
    with open("/proc/self/stat") as stat:
        ticks = int(stat.read().rsplit(")", 1)[1].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / life.TICKS_PER_SECOND


if __name__ == "__main__":
    began = time.monotonic() - _process_age()
    life.end(life.run(HostSocket.from_stdin(), began))
