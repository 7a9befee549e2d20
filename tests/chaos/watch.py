"""Looks at all agents over and over, so that it is known since when all is well."""

import threading

import grpc

from chaos.agents import Agents
from chaos.checker import Seen
from chaos.network import boottime
from chaos.waiting import wait_until

_EVERY = 0.2
# For so long all must have been well before it is believed.
_CALM = 2.0


class Watch:
    """A thread that looks, until `stop`."""

    def __init__(self, agents: Agents) -> None:
        """Prepares it; `start` begins to look."""
        self._agents = agents
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="watch", daemon=True)
        self.looks: list[tuple[int, bool]] = []
        self.amiss: dict[str, Seen | None] | str = "nobody looked yet"

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def stop(self) -> None:
        """Looks no more. Idempotent."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        while not self._stop.wait(_EVERY):
            expected = list(self._agents.accepted)
            try:
                seen = self._agents.look()
            except grpc.RpcError as error:
                self.amiss = f"no engine answers: {error.code().name} {error.details()}"
            else:
                # One that was stopped while we looked is no loss.
                missed = [agent for agent in expected if agent in self._agents.accepted]
                self.amiss = {a: seen.get(a) for a in missed if a not in seen or not seen[a].well}
            self.looks.append((boottime(), not self.amiss))

    def wait_until_well(self, since: int, seconds: float) -> None:
        """Waits until every agent runs, and has for a while.

        Args:
            since: Looks before this moment do not count, nanoseconds of CLOCK_BOOTTIME.
            seconds: Longest wait.

        Raises:
            NeverHappened: Some agent does not; it says which and how it is.
        """

        def look() -> tuple[bool | None, object]:
            counted = [(at, well) for at, well in self.looks if at >= since]
            bad = [at for at, well in counted if not well]
            good = [at for at, well in counted if well and at > (bad[-1] if bad else 0)]
            calm = bool(good) and good[-1] - good[0] >= _CALM * 1e9
            return (True if calm else None), self.amiss

        wait_until("every agent to run", look, seconds)
