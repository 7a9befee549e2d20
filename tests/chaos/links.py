"""Links that are cut or slow."""

from abc import abstractmethod

from chaos.nemesis import Nemesis
from chaos.network import Node
from chaos.scene import Scene

_DELAY_MS, _JITTER_MS = 100, 50


class Cut(Nemesis):
    """Cuts a host from others for two leases; packets are dropped in both directions."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self.hold = 2 * scene.ttl

    @abstractmethod
    def peers(self) -> list[Node]:
        """Whom the host is cut from."""

    def strike(self) -> None:
        self.host = self.scene.busy_host()
        self.scene.stack.network.cut(self.host.node, self.peers())

    def heal(self) -> None:
        self.scene.stack.network.mend(self.host.node)


class CutRedis(Cut):
    """Cuts a host from the registry's Redis for two leases."""

    name = "cut-redis"

    def peers(self) -> list[Node]:
        return [self.scene.stack.registry.node]


class CutEngines(Cut):
    """Cuts a host from every engine for two leases."""

    name = "cut-engines"

    def peers(self) -> list[Node]:
        return [engine.node for engine in self.scene.stack.engines]


class CutBoth(Cut):
    """Cuts a host from the registry's Redis and from every engine for two leases."""

    name = "cut-both"

    def peers(self) -> list[Node]:
        return [self.scene.stack.registry.node, *(engine.node for engine in self.scene.stack.engines)]


class SlowHost(Nemesis):
    """Delays every packet to a host by 100 ms, give or take 50 ms, for two leases."""

    name = "slow-host"

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self.hold = 2 * scene.ttl

    def victim(self) -> Node:
        """Who is slow."""
        return self.scene.busy_host().node

    def strike(self) -> None:
        self.node = self.victim()
        self.scene.stack.network.slow(self.node, _DELAY_MS, _JITTER_MS)

    def heal(self) -> None:
        self.scene.stack.network.mend(self.node)


class SlowRedis(SlowHost):
    """Delays every packet to the registry's Redis by 100 ms, give or take 50 ms, for two leases."""

    name = "slow-redis"

    def victim(self) -> Node:
        return self.scene.stack.registry.node
