"""One program of the stack: started on a node, ended, started again; its log goes on in one file."""

from collections.abc import Mapping
import os
from pathlib import Path
import signal
import subprocess

from chaos.network import Node

# Longest wait for a program that was asked to stop: --drain-timeout and --stop-timeout of agent-host, and some more.
_STOPPING = 60.0


class Program:
    """A program with its command line."""

    def __init__(self, name: str, node: Node, command: list[str], environment: Mapping[str, str], logs: Path) -> None:
        """Prepares it; `start` starts it.

        Args:
            name: Name for people, and of its log.
            node: Where it runs.
            command: Program and arguments.
            environment: More environment.
            logs: Folder of logs.
        """
        self.name = name
        self.node = node
        self.command = command
        self.log = logs / f"{name}.log"
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id. It must have been started."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts it. `ip netns exec` becomes the program itself, so the process id is the program's."""
        assert not self.running, f"{self.name} runs already"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", self.node.namespace, *self.command],
                env=os.environ | self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def signal(self, what: signal.Signals) -> None:
        """Sends it a signal, if it runs."""
        if self._process is not None:
            self._process.send_signal(what)

    def kill(self) -> None:
        """Kills it and waits for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_STOPPING)

    def stop(self) -> int:
        """Asks it to end and waits for that; returns its exit code.

        Raises:
            subprocess.TimeoutExpired: It did not end in a minute.
        """
        assert self._process is not None, f"{self.name} was never started"
        self._process.terminate()
        return self._process.wait(_STOPPING)
