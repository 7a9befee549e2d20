"""The message bus alone: killed, cut off, and cut from those who listen. The registry is left in peace."""

import threading

from chaos.links import Cut
from chaos.nemesis import Nemesis
from chaos.network import Node
from chaos.scene import Scene
from chaos.stack import ask_redis

_EVERY = 0.1


class KillBus(Nemesis):
    """kill -9 of the message bus, which is started again two seconds later from its append-only file."""

    name = "kill-bus"
    hold = 2.0

    def strike(self) -> None:
        self.scene.stack.bus.kill()

    def heal(self) -> None:
        self.scene.stack.bus.start()
        self.scene.stack.wait_for_redis(self.scene.stack.bus)


class CutBus(Cut):
    """Cuts a host from the message bus for two leases."""

    name = "cut-bus"

    def peers(self) -> list[Node]:
        return [self.scene.stack.bus.node]


class CutSubscriptions(Nemesis):
    """Cuts all subscriptions to the message bus, ten times a second, for a lease."""

    name = "cut-subscriptions"

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self.hold = scene.ttl
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def strike(self) -> None:
        self._over.clear()
        self._thread = threading.Thread(target=self._work, name=self.name, daemon=True)
        self._thread.start()

    def heal(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while not self._over.wait(_EVERY):
            ask_redis(self.scene.stack.bus.node, "CLIENT KILL TYPE pubsub")
