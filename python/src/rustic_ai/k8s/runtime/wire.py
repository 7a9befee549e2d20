"""Messages between agent-host and a zygote.

The zygote's standard input is a Unix socket to agent-host. A message, in both directions, is four bytes of length,
big-endian, and a JSON object; descriptors ride on the length. `VERSION` stands in the first message of each side:

    host -> zygote  {"op": "preload", "version": 3, "modules": ["..."]}
    zygote -> host  {"event": "hello", "version": 3, "failed_preloads": [{"module", "error", "traceback"}],
                     "obstacle": "...", "culprit": "..."}
                    why it is unsafe to fork already, and the module that is to blame; empty: it is safe

    host -> zygote  {"op": "share"}
                    before the first agent is forked: its memory is made fit to be shared
    zygote -> host  {"event": "shared"}

    host -> zygote  {"op": "fork", "id": 7, "title": "...", "directory": "...", "environment": {...}}
                    with three descriptors: the child's socket to the host, its standard output, its standard error
    host -> zygote  {"op": "branch", "id": 8}
                    with the same three descriptors; the child is a zygote too and waits for its own "preload"
    zygote -> host  {"event": "forked", "id": 7, "pid": 4711}
                    {"event": "refused", "id": 7, "reason": "..."}

The other end is `agent-host/src/zygote/wire.rs`.
"""

import json
import socket
import struct
from typing import Any

VERSION = 3
# Descriptors that come with "fork" and "branch".
DESCRIPTORS = 3
_LENGTH = struct.Struct(">I")


class Wire:
    """The zygote's end of the socket."""

    def __init__(self, descriptor: int) -> None:
        """Takes over a socket's descriptor."""
        self._socket = socket.socket(fileno=descriptor)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

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
