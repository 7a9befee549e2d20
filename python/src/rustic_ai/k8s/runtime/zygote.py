"""The zygote: a warm, single-threaded process that forks one single-use child per agent.

Its standard input is a Unix socket to agent-host. Messages in both directions are four bytes of length, big-endian, and
a JSON object; `VERSION` stands in the first one:

    zygote -> host  {"event": "hello", "version": 1, "failed_preloads": [{"module", "error", "traceback"}]}
    host -> zygote  {"op": "fork", "id": 7, "title": "...", "environment": {...}}
                    with three descriptors: the child's socket to the host, its standard output, its standard error
    zygote -> host  {"event": "forked", "id": 7, "pid": 4711}
                    {"event": "refused", "id": 7, "reason": "..."}

The child is forked twice, so that agent-host, a child subreaper, becomes its parent and learns its exit status. A fork
with threads or foreign sockets open would copy locks that nobody unlocks: it is refused, with the module that is to
blame, and the host starts that agent cold.
"""

import ctypes
import gc
import importlib
import importlib.util
import json
import os
import random
import select
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from typing import Any, NoReturn

from rustic_ai.k8s.runtime.host import HostSocket, describe, null_stdin

VERSION = 1
_LENGTH = struct.Struct(">I")
_DESCRIPTORS = 3
# Everything an agent on the usual backends touches, imported once. What is not installed is left out.
_PRELOAD = ("rustic_ai.k8s.runtime.life", "rustic_ai.k8s.runtime.agent")
_PRELOAD_IF_PRESENT = ("rustic_ai.redis.messaging.backend", "redis.asyncio", "encodings.idna")
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_libc = ctypes.CDLL(None, use_errno=True)


class Zygote:
    """Serves one host until the socket closes."""

    def __init__(self, host: socket.socket) -> None:
        """Takes over the socket to the host."""
        self._host = host
        self._host_pid = os.getppid()
        self._culprit = ""

    def preload(self, modules: list[str]) -> list[dict[str, str]]:
        """Imports everything; one that fails is told and does not stop the rest."""
        failed = []
        optional = [module for module in _PRELOAD_IF_PRESENT if _is_installed(module)]
        for module in [*_PRELOAD, *optional, *modules]:
            try:
                importlib.import_module(module)
            except BaseException as error:
                trace = traceback.format_exc(limit=-20)
                failed.append({"module": module, "error": describe(error), "traceback": trace})
            if not self._culprit and self._obstacle([]):
                self._culprit = f", since {module} was imported"
        # What was imported is never garbage: keeping the collector away leaves its pages shared with every child.
        gc.collect()
        gc.freeze()
        return failed

    def serve(self, failed_preloads: list[dict[str, str]]) -> None:
        """Says hello and forks on demand, until the host closes the socket."""
        self._send({"event": "hello", "version": VERSION, "failed_preloads": failed_preloads})
        while (request := self._receive()) is not None:
            message, descriptors = request
            obstacle = self._obstacle(descriptors)
            if obstacle:
                self._send({"event": "refused", "id": message["id"], "reason": obstacle + self._culprit})
            else:
                pid = self._fork(message, descriptors)
                self._send({"event": "forked", "id": message["id"], "pid": pid})
            for descriptor in descriptors:
                os.close(descriptor)

    def _obstacle(self, expected: list[int]) -> str:
        """Why forking would be unsafe now, apart from the `expected` descriptors; empty when it is safe."""
        threads = len(os.listdir("/proc/self/task"))
        if threads != 1:
            names = ", ".join(thread.name for thread in threading.enumerate())
            return f"the zygote has {threads} threads ({names})"
        for entry in os.listdir("/proc/self/fd"):
            if int(entry) not in (self._host.fileno(), *expected) and _is_socket(int(entry)):
                return f"the zygote has an open socket, descriptor {entry}"
        return ""

    def _fork(self, message: dict[str, Any], descriptors: list[int]) -> int:
        """Forks a grandchild, which agent-host adopts; returns its process id."""
        reader, writer = os.pipe()
        middle = os.fork()
        if middle == 0:
            pid = os.fork()
            if pid == 0:
                self._become_agent(message, descriptors)
            os.write(writer, str(pid).encode())
            os._exit(0)
        os.close(writer)
        with open(reader, "rb") as stream:
            pid = int(stream.read())
        # When this returns the middle process is gone, and the host is the parent.
        os.waitpid(middle, 0)
        return pid

    def _become_agent(self, message: dict[str, Any], descriptors: list[int]) -> NoReturn:
        """Turns the grandchild into an agent's process. Never returns."""
        began = time.monotonic()
        code = 1
        try:
            os.setsid()
            control, out, err = descriptors
            # The child's own descriptors go to their places; everything else was somebody else's.
            os.dup2(control, 3) if control != 3 else None
            os.dup2(out, 1)
            os.dup2(err, 2)
            null_stdin()
            os.closerange(4, 1 << 16)
            _die_with(self._host_pid, 3)
            os.umask(0o022)
            os.environ.clear()
            os.environ.update(message["environment"])
            time.tzset()
            random.seed()
            _libc.prctl(_PR_SET_NAME, message["title"].encode()[:15], 0, 0, 0)
            from rustic_ai.k8s.runtime import life

            host = HostSocket(3)
            code = life.run(host, began)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode()
        self._host.sendall(_LENGTH.pack(len(data)) + data)

    def _receive(self) -> tuple[dict[str, Any], list[int]] | None:
        head, descriptors, _flags, _address = socket.recv_fds(self._host, _LENGTH.size, _DESCRIPTORS)
        if not head:
            return None
        head += self._exactly(_LENGTH.size - len(head))
        (length,) = _LENGTH.unpack(head)
        return json.loads(self._exactly(length)), list(descriptors)

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            chunk = self._host.recv(count - len(data))
            if not chunk:
                raise EOFError("agent-host closed the socket within a message")
            data += chunk
        return bytes(data)


def _die_with(host_pid: int, control: int) -> None:
    """Ends this process when the host ends.

    The signal is tied to the parent at hand, so it is asked for only when the host is the parent; before that it would
    be the middle process's end that kills us. The host sends the launch after it was told our process id, and it is told
    after the middle process is gone: so when there is something to read, the host is the parent.
    """
    select.select([control], [], [])
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != host_pid:
        # The host died meanwhile; nobody would signal us any more.
        os._exit(1)


def _is_socket(descriptor: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
    except OSError:
        # The descriptor of the listing itself is gone by now.
        return False


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def main() -> None:
    """Entry point. Arguments: modules to preload."""
    host = socket.socket(fileno=os.dup(0))
    null_stdin()
    zygote = Zygote(host)
    zygote.serve(zygote.preload(sys.argv[1:]))


if __name__ == "__main__":
    main()
