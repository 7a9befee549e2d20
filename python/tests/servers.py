"""Message buses that tests start themselves, on free ports, each in a directory of its own."""

from collections.abc import Sequence
from pathlib import Path
import shutil
import socket
import subprocess
import time
from typing import Any, Self

import pytest
import redis

_PATIENCE = 30.0
_BESIDE = Path(__file__).parents[2] / ".venv" / "bin"


def program(name: str) -> str:
    """Where a program is: on PATH, or where `make setup` has put it."""
    found = shutil.which(name) or shutil.which(name, path=f"{_BESIDE}:/usr/sbin")
    if not found and name == "nats-server":
        pytest.skip("there is no nats-server, and tests/ensure-nats.sh could not install one")
    assert found, f"these tests need {name}; run make setup"
    return found


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


class Server:
    """A program that listens on a port. It may be killed and started again."""

    def __init__(self, command: Sequence[str], port: int, log: Path) -> None:
        """Starts nothing yet."""
        self.port = port
        self._command, self._log = list(command), log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Starts it."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it."""
        self.kill()

    def start(self) -> None:
        """Starts it; returns when it listens."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=self._log.parent)
        give_up = time.monotonic() + _PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                said = self._log.read_text()
                assert self._process.poll() is None and time.monotonic() < give_up, said
                time.sleep(0.01)

    @property
    def pid(self) -> int:
        """Process id while it runs."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Ends it without warning."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class RedisServer(Server):
    """A Redis that keeps what it has acknowledged when it is killed."""

    def __init__(self, directory: Path, *options: str, port: int = 0) -> None:
        """Starts nothing yet.

        Args:
            directory: Where it keeps its data.
            options: More of its options.
            port: Where it listens; 0: a free port.
        """
        port = port or free_port()
        kept = ["--appendonly", "yes", "--save", "", "--dir", str(directory)]
        listens = ["--bind", "127.0.0.1", "--port", str(port)]
        super().__init__([program("redis-server"), *listens, *kept, *options], port, directory / f"redis-{port}.log")

    def client(self, **options: Any) -> redis.Redis:
        """A client of it."""
        return redis.Redis(port=self.port, decode_responses=True, **options)


class NatsServer(Server):
    """A NATS with JetStream."""

    def __init__(self, directory: Path, *options: str) -> None:
        """Starts nothing yet.

        Args:
            directory: Where it keeps its data.
            options: More of its options.
        """
        port = free_port()
        listens = ["--addr", "127.0.0.1", "--port", str(port)]
        store = ["--jetstream", "--store_dir", str(directory / "jetstream")]
        super().__init__([program("nats-server"), *listens, *store, *options], port, directory / f"nats-{port}.log")
