"""Entry point: read the launch, run the agent, end on SIGTERM."""

import logging
import os
import signal
import sys
import threading
import time
import traceback

from rustic_ai.k8s.runtime.document import LaunchDocument
from rustic_ai.k8s.runtime.host import HostSocket, describe

# Seconds to unsubscribe in; less than the 10 s between SIGTERM and SIGKILL.
_SHUTDOWN = 3.0


def main() -> int:
    """Runs one agent. Returns the exit code: 0 after SIGTERM, 1 when the agent could not start."""
    logging.basicConfig(
        level=os.environ.get("RUSTIC_AGENT_LOG_LEVEL", "INFO").upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    host = HostSocket()
    document = LaunchDocument.parse(host.read_document())
    try:
        # Imported here, so that a failure of Rustic AI itself is reported and timed like any other.
        from rustic_ai.k8s.runtime import agent
    except BaseException as error:
        host.failed("import", describe(error), traceback.format_exc())
        return 1
    try:
        wrapper = agent.build(document)
        imported = time.time()
        wrapper.run()
    except agent.StartFailure as failure:
        host.failed(failure.stage, str(failure), traceback.format_exc())
        return 1
    except BaseException as error:
        # Whatever an agent raises while it is built is its author's to read.
        host.failed("initialize", describe(error), traceback.format_exc())
        return 1
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    host.ready(import_seconds=imported - _started(), initialize_seconds=time.time() - imported)
    stop.wait()
    agent.shut_down(wrapper, _SHUTDOWN)
    return 0


def _started() -> float:
    """When this process began, in seconds since the epoch, to a hundredth."""
    with open("/proc/self/stat") as stat:
        ticks = int(stat.read().rsplit(")", 1)[1].split()[19])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: it would wait for threads that the agent left behind.
    os._exit(code)
