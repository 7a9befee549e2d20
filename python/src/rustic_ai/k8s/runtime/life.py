"""The life of one agent in its process, however the process came to be.

```text
document ──▶ build, subscribe ──▶ ready ──▶ SIGTERM ──▶ no message is taken any more ──▶ the agent's own handler of SIGTERM
   │               │                │                   ──▶ handlers at work finish ──▶ unsubscribe ──▶ atexit ──▶ 0
   ▼               ▼                ▼
 failed          failed         ended: a handler or a thread that handles is gone (`ending`)
```
"""

import logging
import os
import sys
import time
import traceback
from typing import NoReturn

from rustic_ai.k8s.runtime import bounds, ending
from rustic_ai.k8s.runtime.document import LaunchDocument
from rustic_ai.k8s.runtime.host import HostSocket, describe
from rustic_ai.k8s.runtime.sigterm import Sigterm, StoppedEarly

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_LOG_LEVEL = "RUSTIC_AGENT_LOG_LEVEL"
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

# Seconds to unsubscribe in, once no handler is at work any more.
_SHUTDOWN = 3.0
# Seconds between two looks at the threads that handle messages: to wake up costs an idle agent more than the look. A host that
# watches whether the agent comes round is shown so more often.
_LOOK, _BEAT = 5.0, 1.0


class BadSetting(Exception):
    """An environment variable that cannot be used."""


def run(host: HostSocket, began: float, inherited: frozenset[str] | None = None) -> int:
    """Runs one agent until SIGTERM.

    Args:
        host: Socket to agent-host.
        began: When the process began, on `time.monotonic`.
        inherited: Modules that a zygote had imported before this process was forked, if the host wants to know what the agent's
            class imports.

    Returns:
        Exit code: 0 after SIGTERM, 1 when the agent could not start. A process whose agent cannot handle messages any more
        does not return: it ends with `ending.BROKEN`.
    """
    _forget_temporary_folder()
    return ending.leave(_live(host, began, inherited))


def _live(host: HostSocket, began: float, inherited: frozenset[str] | None) -> int:
    document = LaunchDocument.parse(host.read_document())
    service = None
    try:
        sigterm = Sigterm()
        _begin_log()
        # Imported here, so that a failure of Rustic AI itself is reported and timed like any other.
        from rustic_ai.k8s.runtime import agent, ids, tracing
        from rustic_ai.k8s.runtime.service import Service
    except StoppedEarly:
        return 0
    except BadSetting as error:
        host.failed("initialize", str(error), "")
        return 1
    except BaseException as error:
        host.failed("import", describe(error), traceback.format_exc())
        return 1
    try:
        bounds.limit(document.memory_limit)
        tracing.begin(document.guild_id, document.agent_id)
        ids.install(document.machine_id, document.share)
        imports = agent.import_class(document, inherited)
        imported = time.monotonic()
        wrapper = agent.build(document)
        service = Service(wrapper, document, host)

        def fail(why: str) -> None:
            host.failed("initialize", why, "")
            end(ending.leave(1))

        wrapper.run(fail)
        sigterm.hold()
    except agent.StartFailure as failure:
        host.failed(failure.stage, str(failure), traceback.format_exc(), failure.field)
        return 1
    except StoppedEarly:
        if service is not None:
            service.end(lambda: None, _SHUTDOWN)
        return 0
    except BaseException as error:
        # Whatever an agent raises while it is built is its author's to read.
        host.failed("initialize", describe(error), traceback.format_exc())
        return 1
    host.ready(
        import_seconds=imported - began,
        initialize_seconds=time.monotonic() - imported,
        imports=imports,
    )
    service.serve(sigterm, _BEAT if document.watched else _LOOK)
    service.end(sigterm.pass_on, _SHUTDOWN)
    return 0


def _forget_temporary_folder() -> None:
    """Has TMPDIR looked at anew: a zygote may have looked before it was an agent, and Python remembers."""
    if tempfile := sys.modules.get("tempfile"):
        tempfile.tempdir = None


def _begin_log() -> None:
    """Logs to standard error from a level on, whatever a module that was imported before has set up."""
    level = os.environ.get(_LOG_LEVEL, "WARNING").upper()
    if level not in logging.getLevelNamesMapping():
        known = ", ".join(logging.getLevelNamesMapping())
        raise BadSetting(f"{_LOG_LEVEL} is {level!r}; choose one of {known}")
    logging.basicConfig(level=level, format=LOG_FORMAT, force=True)


def end(code: int) -> NoReturn:
    """Ends the process at once: the usual way would wait for threads that the agent left behind."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
