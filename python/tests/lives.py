"""One agent in a process of its own, with the test in the place of agent-host."""

import json
import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
from typing import Any, Self

from rustic_ai.k8s.runtime.document import VERSION

GUILD = "g"


def redis_messaging(port: int, **client: Any) -> dict[str, Any]:
    """Messaging over a Redis of this machine."""
    return {
        "backend_module": "rustic_ai.redis.messaging.backend",
        "backend_class": "RedisMessagingBackend",
        "backend_config": {"redis_client": {"host": "127.0.0.1", "port": port, **client}},
    }


def nats_messaging(port: int, host: str = "127.0.0.1", **client: Any) -> dict[str, Any]:
    """Messaging over a NATS, of this machine by default."""
    return {
        "backend_module": "rustic_ai.nats.messaging.backend",
        "backend_class": "NATSMessagingBackend",
        "backend_config": {"nats_client": {"servers": [f"nats://{host}:{port}"], **client}},
    }


class Life:
    """A process that runs an agent, from its start to its end."""

    def __init__(
        self,
        class_name: str,
        messaging: dict[str, Any],
        *,
        agent_id: str = "a",
        environment: dict[str, str] | None = None,
        **document: Any,
    ) -> None:
        """Starts it.

        Args:
            class_name: Class of the agent.
            messaging: Its MessagingConfig.
            agent_id: Its id.
            environment: Variables beside those of the test.
            document: More of the launch document.
        """
        spec = {"id": agent_id, "name": agent_id, "description": "a test's", "class_name": class_name}
        launch = {
            "version": VERSION,
            "guild_id": GUILD,
            "agent_id": agent_id,
            "organization_id": "o",
            "epoch": 1,
            "machine_id": 1,
            "agent_spec": json.dumps(spec),
            "guild_spec": json.dumps({"id": GUILD, "name": GUILD, "description": "a test's"}),
            "messaging_config": json.dumps(messaging),
            "client_type": "",
            "client_properties": "",
            **document,
        }
        self._ours, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rustic_ai.k8s.runtime"],
            stdin=theirs,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), **(environment or {})},
        )
        theirs.close()
        self._ours.sendall(json.dumps(launch).encode())
        self._ours.shutdown(socket.SHUT_WR)
        self._reports = self._ours.makefile()
        # What it says first: that it is ready, or why it will not be.
        self.report: dict[str, Any] = json.loads(self._reports.readline() or "{}")

    def __enter__(self) -> Self:
        """The agent is ready."""
        assert self.report.get("event") == "ready", self.report
        return self

    def __exit__(self, *_: object) -> None:
        """Whatever became of it, it is gone."""
        self._process.kill()
        self._process.wait()
        self._ours.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def stop(self) -> int:
        """Stops it in order.

        Returns:
            Its exit code.
        """
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(30)

    def kill(self) -> None:
        """Ends it without warning."""
        self._process.kill()
        self._process.wait()
