"""Processes that are stopped for a while: SIGSTOP, then SIGCONT."""

from collections.abc import Iterator
import signal

from chaos import processes
from chaos.checker import Pause
from chaos.nemesis import Nemesis
from chaos.network import boottime
from chaos.scene import Scene


class FreezeHost(Nemesis):
    """SIGSTOP of agent-host alone for a part or a multiple of the lease; its watchdog goes on."""

    leases = 1.0

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self.name = f"freeze-host-{self.leases:g}"
        self.hold = self.leases * scene.ttl

    def strike(self) -> None:
        self.host = self.scene.busy_host()
        self.host.signal(signal.SIGSTOP)

    def heal(self) -> None:
        self.host.signal(signal.SIGCONT)


class FreezeMachine(FreezeHost):
    """SIGSTOP of every process of a host, watchdog and agents included, for a part or a multiple of the lease."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self.name = f"freeze-machine-{self.leases:g}"
        self.pids: list[int] = []

    def strike(self) -> None:
        self.host = self.scene.busy_host()
        self.pids = []
        while new := [pid for pid in self.scene.stack.network.pids(self.host.node) if pid not in self.pids]:
            for pid in new:
                processes.send(pid, signal.SIGSTOP)
            processes.wait_until_still(new)
            self.pids += new
        self.began = boottime()

    def heal(self) -> None:
        # Who wakes first is a matter of chance, as it is on a machine that is thawed.
        self.scene.chance.shuffle(self.pids)
        self.deaths = processes.Deaths(self.pids)
        frozen = frozenset(self.pids)
        self.scene.pauses.append(Pause(frozen, self.began, boottime(), whole=True, deaths=self.deaths.seen))
        for pid in self.pids:
            processes.send(pid, signal.SIGCONT)

    def after(self) -> None:
        self.deaths.stop()


class Sabotage(FreezeHost):
    """SIGSTOP of agent-host and of its watchdog, but not of the agents: breaks P1, to see that the checker finds it."""

    leases = 3.0

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self.name = "sabotage"

    def strike(self) -> None:
        self.host = self.scene.busy_host()
        pids = self.scene.stack.network.pids(self.host.node)
        self.pids = [pid for pid in pids if processes.name(pid) == "rustic-watchdog"] + [self.host.pid]
        for pid in self.pids:
            processes.send(pid, signal.SIGSTOP)

    def heal(self) -> None:
        for pid in self.pids:
            processes.send(pid, signal.SIGCONT)


def for_leases(kind: type[FreezeHost]) -> Iterator[type[FreezeHost]]:
    """A freeze for half a lease, for one and for three."""
    for leases in (0.5, 1.0, 3.0):
        yield type(kind.__name__, (kind,), {"leases": leases, "__doc__": kind.__doc__})
