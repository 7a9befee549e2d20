"""Hosts that come and go in good order, and creates amid all that."""

from concurrent.futures import Future, ThreadPoolExecutor, wait

import grpc

from chaos.agents import Name
from chaos.nemesis import Nemesis

# Seconds that a create may take, and requests of agents that are about to be stopped.
_CREATE, _ANSWER = 90.0, 60.0


class RollingRestart(Nemesis):
    """Every host in turn: SIGTERM, wait for its end, start it again, wait until it takes agents."""

    name = "rolling-restart"

    def strike(self) -> None:
        for host in self.scene.stack.hosts:
            code = host.stop()
            if code:
                self.scene.faults.append(f"{host.name} ended with exit code {code} after SIGTERM")
            host.start()
            self.scene.stack.wait_until_complete()


class ScaleIn(Nemesis):
    """SIGTERM to a host in the middle of a burst of creates; the burst's agents are stopped again at the end."""

    name = "scale-in"
    _burst = 8
    _bursts = 0

    def strike(self) -> None:
        ScaleIn._bursts += 1
        self.burst = [Name(f"burst-{ScaleIn._bursts}", f"agent-{number}") for number in range(self._burst)]
        self.host = self.scene.busy_host()
        with ThreadPoolExecutor(self._burst) as callers:
            creates = [callers.submit(self.scene.agents.create, name, _CREATE) for name in self.burst]
            wait(creates, return_when="FIRST_COMPLETED")
            self.hit()
            for name, create in zip(self.burst, creates, strict=True):
                self._report(name, create)
        self.scene.producer.add([name for name in self.burst if str(name) in self.scene.agents.accepted])

    def hit(self) -> None:
        """What happens in the middle of the burst."""
        if code := self.host.stop():
            self.scene.faults.append(f"{self.host.name} ended with exit code {code} after SIGTERM")

    def _report(self, name: Name, create: Future[None]) -> None:
        error = create.exception()
        if isinstance(error, grpc.RpcError):
            self.scene.faults.append(f"create of {name} failed: {error.code().name} {error.details()}")
        elif error is not None:
            raise error

    def heal(self) -> None:
        self.host.start()

    def after(self) -> None:
        accepted = [name for name in self.burst if str(name) in self.scene.agents.accepted]
        self.scene.producer.retire(accepted)
        self.scene.producer.wait_for_all(accepted, _ANSWER)
        for name in accepted:
            self.scene.agents.stop(name, _CREATE)


class KillCreating(ScaleIn):
    """kill -9 of a host in the middle of a burst of creates; the burst's agents are stopped again at the end."""

    name = "kill-creating"

    def hit(self) -> None:
        self.host.kill()


class EngineCreating(ScaleIn):
    """kill -9 of an engine in the middle of a burst of creates; callers go on with the other."""

    name = "engine-creating"

    def hit(self) -> None:
        self.engine = self.scene.chance.choice(self.scene.stack.engines)
        self.engine.kill()

    def heal(self) -> None:
        self.engine.start()
