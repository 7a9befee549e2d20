"""The socket to agent-host."""

import contextlib
# By name: what an agent's module does to `json` later must not garble what the host gets.
from json import dumps
import os
import socket
import threading
from typing import Any

from rustic_ai.k8s.runtime import bounds

# A traceback longer than this loses its middle: the ends say what and where.
_MAX_TRACEBACK = 64 * 1024
# Characters of the reason of an end.
_MAX_REASON = 1000


def null_stdin() -> None:
    """Puts /dev/null in the place of standard input."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def describe(error: BaseException) -> str:
    """An error in one line, with its type; of an allocation that failed, with the limit that it met."""
    if isinstance(error, MemoryError) and (why := bounds.explanation()):
        return f"MemoryError: {why}"
    return f"{type(error).__name__}: {error}"


class HostSocket:
    """The way to agent-host: the launch comes in, reports go out, as long as the process lives."""

    def __init__(self, descriptor: int) -> None:
        """Takes over a socket's descriptor. What the agent starts does not inherit it."""
        os.set_inheritable(descriptor, False)
        self._socket = socket.socket(fileno=descriptor)
        self._writing = threading.Lock()
        os.register_at_fork(after_in_child=self._forked)

    @classmethod
    def from_stdin(cls) -> "HostSocket":
        """Takes descriptor 0 away from the agent, which must neither read the launch nor fake a report."""
        host = cls(os.dup(0))
        null_stdin()
        return host

    def read_document(self) -> bytes:
        """Reads the launch document up to end of file."""
        with self._socket.makefile("rb") as stream:
            return stream.read()

    def ready(self, import_seconds: float, initialize_seconds: float, imports: dict[str, Any] | None) -> None:
        """Reports that the agent has subscribed.

        Args:
            import_seconds: From the start of the process to all imports done.
            initialize_seconds: Building and subscribing the agent.
            imports: What the agent's class imports, see `agent.import_class`; None: nobody wants to know.
        """
        self._report(
            event="ready", import_seconds=import_seconds, initialize_seconds=initialize_seconds, imports=imports
        )

    def failed(self, stage: str, error: str, traceback: str, field: str = "") -> None:
        """Reports that the agent will not become ready.

        Args:
            stage: `spec`, `import`, `client_type` or `initialize`.
            error: The error in one line.
            traceback: Where it came from.
            field: Field of the launch that is wrong, when the stage is `spec`.
        """
        if len(traceback) > _MAX_TRACEBACK:
            half = _MAX_TRACEBACK // 2
            traceback = f"{traceback[:half]}\n[…]\n{traceback[-half:]}"
        self._report(event="failed", stage=stage, error=error, traceback=traceback, field=field)

    def set_aside(self, topic: str, message_id: int) -> None:
        """Reports that a message was set aside, as the launch asked for.

        Args:
            topic: Its topic, as the launch named it.
            message_id: Its id, likewise.
        """
        with contextlib.suppress(OSError):
            # The host is gone: so is this process, soon.
            self._report(event="set_aside", topic=topic, message_id=message_id)

    def ended(self, reason: str) -> None:
        """Reports that the process ends itself.

        Args:
            reason: Why, in one line.
        """
        with contextlib.suppress(OSError):
            self._report(event="ended", reason=reason[:_MAX_REASON])

    def _report(self, **report: Any) -> None:
        with self._writing:
            self._socket.sendall(dumps(report).encode() + b"\n")

    def _forked(self) -> None:
        """What the agent forks must not speak for it."""
        self._writing = threading.Lock()
        self._socket.close()
