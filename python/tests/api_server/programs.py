"""The programs around an API server, as processes of the test: PostgreSQL in a folder of its own, and rusticai-api."""

from collections.abc import Iterator
import contextlib
import glob
import json
import os
from pathlib import Path
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

# rusticai-api imports Ray and looks through every module of Rustic AI before it listens.
_PATIENCE = 120.0


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """A database server with one empty database.

    Yields:
        Its URL for SQLAlchemy, with psycopg as the driver.
    """
    programs = sorted(glob.glob("/usr/lib/postgresql/*/bin")) or [os.path.dirname(shutil.which("initdb") or "/")]
    # Short: its socket lies in it. It must belong to the server's user, which cannot be root.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    as_its_user: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        as_its_user = ["runuser", "-u", "postgres", "--"]

    def run(program: str, *arguments: str) -> None:
        command = [*as_its_user, f"{programs[-1]}/{program}", *arguments]
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"

    data, port = f"{folder}/data", free_port()
    settings = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    run("initdb", "--pgdata", data, "--username=rustic", "--auth=trust", "--no-sync")
    run("pg_ctl", "--pgdata", data, "--wait", "--silent", "--log", f"{folder}/log", "--options", settings, "start")
    try:
        run("createdb", "--host=127.0.0.1", f"--port={port}", "--username=rustic", "rustic")
        yield f"postgresql+psycopg://rustic@127.0.0.1:{port}/rustic"
    finally:
        run("pg_ctl", "--pgdata", data, "--wait", "--silent", "--mode=immediate", "stop")
        shutil.rmtree(folder)


class ApiServer:
    """rusticai-api on a port of this machine, set up by its environment alone.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, folder: Path, metastore: str | None) -> None:
        """Starts it.

        Args:
            folder: Its working directory, and where its output goes.
            metastore: Its database; None: its default.
        """
        redis = urlparse(os.environ["RUSTIC_REDIS_URL"])
        backend = {"redis_client": {"host": redis.hostname, "port": redis.port}}
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RUSTIC_METASTORE")},
            "RUSTIC_AI_EXECUTION_ENGINE": "rustic_ai.k8s.execution.K8sExecutionEngine",
            "RUSTIC_AI_MESSAGING_MODULE": "rustic_ai.redis.messaging.backend",
            "RUSTIC_AI_MESSAGING_CLASS": "RedisMessagingBackend",
            "RUSTIC_AI_MESSAGING_BACKEND_CONFIG": json.dumps(backend),
            "RUSTIC_LOGGING_LEVEL": "WARNING",
            **({"RUSTIC_METASTORE": metastore} if metastore else {}),
        }
        self._folder, self.port = folder, free_port()
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "uvicorn",
            "rustic_ai.api_server.main:app",
            "--host=127.0.0.1",
            f"--port={self.port}",
        ]
        with (self._folder / "api-server.log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=self._folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        give_up = time.monotonic() + _PATIENCE
        while True:
            with contextlib.suppress(URLError, ConnectionError):
                self.call("GET", "/__health")
                return process
            assert process.poll() is None and time.monotonic() < give_up, self.log()
            time.sleep(0.1)

    def log(self) -> str:
        """What it wrote."""
        return (self._folder / "api-server.log").read_text()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """A call of its REST interface.

        Args:
            method: Of HTTP.
            path: With its slash.
            body: Sent as JSON.

        Returns:
            Its answer; None if that is empty.

        Raises:
            HTTPError: It was refused; its text is the answer.
        """
        data = None if body is None else json.dumps(body).encode()
        request = Request(
            f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urlopen(request, timeout=60) as answer:
                text = answer.read()
                return json.loads(text) if text else None
        except HTTPError as error:
            error.msg = f"{error.msg}: {error.read().decode()}"
            raise

    def kill(self) -> None:
        """Ends it without a word."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def start_again(self) -> None:
        """Starts another one in its place, with its port and its database."""
        self._process = self._start()


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
