"""Messages between agent-host and a zygote.

The zygote's standard input is a Unix socket to agent-host. A message, in both directions, is four bytes of length,
big-endian, and a JSON object; descriptors ride on the length. `VERSION` stands in the first message of each side:

    host -> zygote  {"op": "preload", "version": 6, "units": [{"name", "place", "modules", "files"}], "own": "my.agents",
                     "share": "proven", "proven": ["..."], "refused": ["..."], "vouched": ["..."], "memory": 536870912, "varying": ["TMPDIR"],
                     "directory": "..."}
                    units: what may be preloaded, see `proof.closure`; own: the class's own module, empty for what an operator
                    names; the rest is described in `proof.prover`
    zygote -> host  {"event": "hello", "version": 6, "shared": ["..."], "modules": ["..."], "refused": {"...": "why"},
                     "postponed": {"...": "why"}, "files": ["..."], "reads": ["..."], "private": 4711, "spent": 0.25, "failed_preloads": [{"module", "error", "traceback"}],
                     "obstacle": "...", "culprit": "..."}
                    shared, refused: units; postponed: those of which nothing is known for good; modules: all that a fork finds loaded beyond what its ancestor has; files and reads:
                    what these came from, and variables of the environment that they asked for; private: memory of its own, in bytes; spent: processor time so far, in seconds, with that of its children; obstacle: why it is unsafe to
                    fork already, and the module that is to blame; empty: it is safe

    host -> zygote  {"op": "fork", "id": 7, "title": "...", "directory": "...", "environment": {...}, "learn": true,
                     "confinement": {"filter": "..."}}
                    with three descriptors: the child's socket to the host, its standard output, its standard error; learn:
                    the child shall report what its class imports; confinement: what it takes on, or null, see `confinement`; a
                    fourth descriptor is the ruleset
    host -> zygote  {"op": "branch", "id": 8, "confinement": ...}
                    with the same descriptors; the child is a zygote too and waits for its own "preload"
    zygote -> host  {"event": "forked", "id": 7, "pid": 4711}
                    {"event": "refused", "id": 7, "reason": "..."}
                    {"event": "exhausted", "id": 7, "reason": "..."}
                    the system has no room for another process

The other end is `agent-host/src/zygote/wire.rs`.
"""

import json
import socket
import struct
from typing import Any

VERSION = 6
# Most descriptors that come with "fork" and "branch".
DESCRIPTORS = 4
_LENGTH = struct.Struct(">I")


class Wire:
    """The zygote's end of the socket."""

    def __init__(self, descriptor: int) -> None:
        """Takes over a socket's descriptor."""
        self._socket = socket.socket(fileno=descriptor)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def leave(self, place: int) -> None:
        """Closes this process's copy of the socket, unless its descriptor has become another's.

        Args:
            place: The descriptor that now belongs to somebody else.
        """
        if self._socket.fileno() == place:
            self._socket.detach()
        else:
            self._socket.close()

    def close(self) -> None:
        """Closes this process's copy of the socket."""
        self._socket.close()

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message as a whole."""
        data = json.dumps(message).encode()
        self._socket.sendall(_LENGTH.pack(len(data)) + data)

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next message and its descriptors; None when the host closed the socket.

        Raises:
            EOFError: The host closed the socket within a message.
        """
        head, descriptors, _flags, _address = socket.recv_fds(self._socket, _LENGTH.size, DESCRIPTORS)
        if not head:
            return None
        head += self._exactly(_LENGTH.size - len(head))
        (length,) = _LENGTH.unpack(head)
        return json.loads(self._exactly(length)), list(descriptors)

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            chunk = self._socket.recv(count - len(data))
            if not chunk:
                raise EOFError("agent-host closed the socket within a message")
            data += chunk
        return bytes(data)
