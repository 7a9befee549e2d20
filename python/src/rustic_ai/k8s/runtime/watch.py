"""Whether the threads live that listen for messages and handle them: an agent that is RUNNING answers.

rusticai-redis has two kinds: one thread that listens to the connection, which its own health monitor replaces when it
died, and one that handles, which nobody replaces. Of other backends, threads that messaging started as it was built are
watched; not those that look after others, which end when they have found something to mend.
"""

import threading
from typing import Any

# Looks in a row that find nobody who listens, nor anybody who mends that; between one mending thread and the next there may
# be none for a moment.
_DEAF = 2
_CARERS = ("nats-pubsub-health-monitor", "nats-pubsub-reconnect")
_MENDERS = ("redis-pubsub-health-monitor", "redis-pubsub-reconnect")


class Watch:
    """Looks after the threads of one agent's messaging."""

    def __init__(self, backend: Any, built: frozenset[threading.Thread]) -> None:
        """Begins when the agent has subscribed.

        Args:
            backend: The messaging backend.
            built: Threads that were started while messaging was built.
        """
        # That of rusticai-redis keeps in it whom it started; that of rusticai-nats is another one.
        manager = getattr(backend, "_pubsub_manager", None)
        self._manager = manager if hasattr(manager, "redis_thread") else None
        self._others = frozenset(
            thread
            for thread in (() if self._manager else built)
            if thread.daemon and thread.is_alive() and thread.name not in _CARERS
        )
        self._workers: dict[str, threading.Thread] = {}
        self._deaf = 0

    def loops(self) -> frozenset[threading.Thread]:
        """Threads that take one message after the other."""
        return frozenset(self._known_workers().values())

    def look(self) -> str:
        """Why nothing handles messages any more; empty when all is well."""
        for client, thread in self._known_workers().items():
            if not thread.is_alive() and client in self._workers:
                return f"the thread {thread.name!r}, which handles messages, has ended"
        self._workers = self._known_workers()
        for thread in self._others:
            if not thread.is_alive():
                return f"the thread {thread.name!r} of the messaging backend has ended"
        return self._listener()

    def _known_workers(self) -> dict[str, threading.Thread]:
        return dict(getattr(self._manager, "_client_workers", {}))

    def _listener(self) -> str:
        if self._manager is None:
            return ""
        listener = getattr(self._manager, "redis_thread", None)
        alive = listener is not None and listener.is_alive()
        if alive or any(thread.name in _MENDERS for thread in threading.enumerate()):
            self._deaf = 0
            return ""
        self._deaf += 1
        return "nothing listens for messages any more, and nobody mends it" if self._deaf >= _DEAF else ""
