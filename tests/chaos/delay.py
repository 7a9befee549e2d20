"""Holds packets for a while before they are let in: what `tc netem delay` does, for kernels that have no netem.

    python -m chaos.delay MILLISECONDS JITTER        in the node's namespace

Serves packet queue 0 (NFQUEUE). Prints `ready` when it does. Packets may overtake each other, as with netem.
"""

import heapq
import random
import select
import socket
import struct
import sys
import time

# From linux/netlink.h and linux/netfilter/nfnetlink_queue.h.
_NETLINK_NETFILTER, _SOL_NETLINK, _NO_ENOBUFS = 12, 270, 5
_PACKET, _VERDICT, _CONFIG = 0x300, 0x301, 0x302
_REQUEST, _ACK, _ERROR = 1, 4, 2
_CFG_CMD, _CFG_PARAMS, _CFG_MAXLEN, _BIND, _COPY_META = 1, 2, 3, 1, 1
_PACKET_HDR, _VERDICT_HDR, _ACCEPT = 1, 2, 1
_QUEUE = 0


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def _message(kind: int, flags: int, family: int, body: bytes) -> bytes:
    head = struct.pack("=BB", family, 0) + struct.pack(">H", _QUEUE)
    return struct.pack("=IHHII", 16 + len(head) + len(body), kind, flags, 0, 0) + head + body


class Queue:
    """The kernel's queue of packets."""

    def __init__(self) -> None:
        """Binds the queue. Raises OSError where the kernel has none."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _NO_ENOBUFS, 1)
        self._configure(_attribute(_CFG_CMD, struct.pack(">BBH", _BIND, 0, socket.AF_INET)))
        self._configure(_attribute(_CFG_PARAMS, struct.pack(">IB", 0, _COPY_META)))
        self._configure(_attribute(_CFG_MAXLEN, struct.pack(">I", 100_000)))

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    def _configure(self, attribute: bytes) -> None:
        self._socket.send(_message(_CONFIG, _REQUEST | _ACK, socket.AF_UNSPEC, attribute))
        answer = self._socket.recv(65536)
        kind, error = struct.unpack_from("=4xH", answer)[0], struct.unpack_from("=16xi", answer)[0]
        if kind == _ERROR and error:
            raise OSError(-error, "the packet queue cannot be used")

    def packets(self) -> list[int]:
        """Ids of packets that have come."""
        data, found, at = self._socket.recv(1 << 20), [], 0
        while at + 16 <= len(data):
            length, kind = struct.unpack_from("=IH", data, at)
            if kind == _PACKET:
                found.append(_packet_id(data[at + 20 : at + length]))
            at += length + (-length % 4)
        return found

    def accept(self, packet: int) -> None:
        """Lets a packet in."""
        verdict = _attribute(_VERDICT_HDR, struct.pack(">II", _ACCEPT, packet))
        self._socket.send(_message(_VERDICT, _REQUEST, socket.AF_UNSPEC, verdict))


def _packet_id(attributes: bytes) -> int:
    at = 0
    while at + 4 <= len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, at)
        if kind == _PACKET_HDR:
            return int(struct.unpack_from(">I", attributes, at + 4)[0])
        at += length + (-length % 4)
    raise ValueError("a packet without an id")


def main() -> None:
    """Delays packets until it is killed."""
    delay, jitter = (float(argument) / 1000 for argument in sys.argv[1:3])
    queue = Queue()
    held: list[tuple[float, int]] = []
    print("ready", flush=True)
    while True:
        wait = max(0.0, held[0][0] - time.monotonic()) if held else None
        readable, _, _ = select.select([queue], [], [], wait)
        now = time.monotonic()
        if readable:
            for packet in queue.packets():
                heapq.heappush(held, (now + max(0.0, delay + random.uniform(-jitter, jitter)), packet))
        while held and held[0][0] <= now:
            queue.accept(heapq.heappop(held)[1])


if __name__ == "__main__":
    main()
