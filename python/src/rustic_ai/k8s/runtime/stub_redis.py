"""As much of a Redis as agents talk to while they start: what they subscribe to, publish and keep, in this process alone.

It serves a rehearsal, on the loopback interface, and forgets everything with it. A command that it does not know it
answers with OK; what it should have answered nobody relies on.
"""

from collections import defaultdict
import selectors
import socket
import threading
from typing import Self


class StubRedis:
    """A server with one thread, from `with` to its end."""

    def __init__(self) -> None:
        """Prepares it; nothing listens yet."""
        self._values: dict[bytes, bytes] = {}
        self._sorted: defaultdict[bytes, list[tuple[float, bytes]]] = defaultdict(list)
        self._subscribers: defaultdict[bytes, list[_Connection]] = defaultdict(list)

    def __enter__(self) -> Self:
        """Listens."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stopped, self._stop = socket.socketpair()
        self.thread = threading.Thread(target=self._serve, name="stub-redis", daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Closes every connection and waits for the thread to end."""
        self._stop.close()
        self.thread.join()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._listener.getsockname()[1]

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._stopped, selectors.EVENT_READ)
            stopped = False
            while not stopped:
                for key, _ in selector.select():
                    if key.fileobj is self._stopped:
                        stopped = True
                    elif key.fileobj is self._listener:
                        accepted, _address = self._listener.accept()
                        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        selector.register(accepted, selectors.EVENT_READ, _Connection(accepted))
                    elif not self._read(key.data):
                        selector.unregister(key.fileobj)
                        key.data.socket.close()
            for key in list(selector.get_map().values()):
                socket.socket.close(key.fileobj)  # type: ignore[arg-type]

    def _read(self, connection: "_Connection") -> bool:
        """Answers what has arrived; False at the connection's end."""
        try:
            data = connection.socket.recv(1 << 16)
            connection.unread += data
            while found := _command(connection.unread):
                command, connection.unread = found
                connection.socket.sendall(self._answer(connection, command))
        except OSError:
            data = b""
        if not data:
            for subscribers in self._subscribers.values():
                if connection in subscribers:
                    subscribers.remove(connection)
        return bool(data)

    def _answer(self, connection: "_Connection", command: list[bytes]) -> bytes:
        match [command[0].upper(), *command[1:]]:
            case [b"HELLO", version, *_]:
                connection.version = int(version)
                return b"%1\r\n" + _bulk(b"proto") + b":%d\r\n" % connection.version
            case [b"PING"]:
                return b"+PONG\r\n"
            case [b"GET", name]:
                return _bulk(self._values[name]) if name in self._values else connection.null()
            case [b"SET", name, value, *_]:
                self._values[name] = value
            case [b"ZADD", name, score, member]:
                self._sorted[name].append((float(score), member))
                return b":1\r\n"
            case [b"ZRANGE" | b"ZRANGEBYSCORE", name, *_]:
                return _array(b"*", [_bulk(member) for _, member in sorted(self._sorted[name])])
            case [b"PUBLISH", channel, text]:
                listeners = self._subscribers[channel]
                for listener in listeners:
                    listener.socket.sendall(listener.push(_bulk(b"message"), _bulk(channel), _bulk(text)))
                return b":%d\r\n" % len(listeners)
            case [b"UNSUBSCRIBE"]:
                channels = [channel for channel, others in self._subscribers.items() if connection in others]
                done = [self._subscription(connection, b"UNSUBSCRIBE", channel) for channel in channels]
                return b"".join(done) or connection.push(_bulk(b"unsubscribe"), connection.null(), b":0\r\n")
            case [b"SUBSCRIBE" | b"UNSUBSCRIBE" as word, *channels]:
                return b"".join(self._subscription(connection, word, channel) for channel in channels)
        return b"+OK\r\n"

    def _subscription(self, connection: "_Connection", word: bytes, channel: bytes) -> bytes:
        subscribers = self._subscribers[channel]
        if word == b"SUBSCRIBE":
            subscribers.append(connection)
        elif connection in subscribers:
            subscribers.remove(connection)
        left = sum(connection in others for others in self._subscribers.values())
        return connection.push(_bulk(word.lower()), _bulk(channel), b":%d\r\n" % left)


class _Connection:
    def __init__(self, accepted: socket.socket) -> None:
        self.socket = accepted
        self.unread = b""
        # Of the protocol, RESP.
        self.version = 2

    def null(self) -> bytes:
        return b"_\r\n" if self.version == 3 else b"$-1\r\n"

    def push(self, *parts: bytes) -> bytes:
        return _array(b">" if self.version == 3 else b"*", list(parts))


def _command(unread: bytes) -> tuple[list[bytes], bytes] | None:
    """The first command and what follows it, `*2 $3 GET $1 k` with each part on a line of its own, or `PING` on one line;
    None while it has not arrived as a whole."""
    head, ended, rest = unread.partition(b"\r\n")
    if not ended:
        return None
    if not head.startswith(b"*"):
        return head.split(), rest
    words = []
    for _ in range(int(head[1:])):
        size, ended, rest = rest.partition(b"\r\n")
        length = int(size[1:]) if ended else 0
        if not ended or len(rest) < length + 2:
            return None
        words.append(rest[:length])
        rest = rest[length + 2 :]
    return words, rest


def _bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


def _array(kind: bytes, parts: list[bytes]) -> bytes:
    return b"%b%d\r\n%b" % (kind, len(parts), b"".join(parts))
