"""Programs that are killed: hosts, engines, Redis, zygotes."""

import shutil
import signal

from chaos import processes
from chaos.nemesis import Nemesis
from chaos.programs import Program
from chaos.scene import Scene
from chaos.stack import ask_redis


class KillHost(Nemesis):
    """kill -9 of an agent-host, which is started again when its agents have been taken over."""

    name = "kill-host"

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self.hold = scene.takeover
        self.host: Program

    def strike(self) -> None:
        self.host = self.scene.busy_host()
        self.host.kill()

    def heal(self) -> None:
        self.host.start()


class CrashHost(KillHost):
    """kill -9 of an agent-host, which is started again at once."""

    name = "crash-host"

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self.hold = 0.0


class LoseMachine(KillHost):
    """kill -9 of every process of a host at once; it comes back on an empty disk."""

    name = "lose-machine"

    def strike(self) -> None:
        self.host = self.scene.busy_host()
        for pid in self.scene.stack.network.pids(self.host.node):
            processes.send(pid, signal.SIGKILL)
        self.host.kill()

    def heal(self) -> None:
        number = self.scene.stack.hosts.index(self.host)
        shutil.rmtree(self.scene.stack.work_dir(number))
        self.scene.stack.work_dir(number)
        self.host.start()


class KillEngine(Nemesis):
    """kill -9 of an engine, which is started again two seconds later."""

    name = "kill-engine"
    hold = 2.0

    def strike(self) -> None:
        self.engine = self.scene.chance.choice(self.scene.stack.engines)
        self.engine.kill()

    def heal(self) -> None:
        self.engine.start()


class KillRedis(Nemesis):
    """kill -9 of the registry's Redis, which is started again one second later from its append-only file."""

    name = "kill-redis"
    hold = 1.0

    def strike(self) -> None:
        self.scene.stack.registry.kill()

    def heal(self) -> None:
        self.scene.stack.registry.start()
        self.scene.stack.wait_for_redis(self.scene.stack.registry)


class RedisAway(KillRedis):
    """kill -9 of the registry's Redis, which is away for one and a half leases: every agent loses its lease."""

    name = "redis-away"

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self.hold = 1.5 * scene.ttl


class KillZygote(Nemesis):
    """kill -9 of all zygotes of a host, and of one of its agents, which must start again without them."""

    name = "kill-zygote"

    def strike(self) -> None:
        host = self.scene.busy_host()
        pids = self.scene.stack.network.pids(host.node)
        zygotes = [pid for pid in pids if processes.name(pid) == "rustic-zygote"]
        if not zygotes:
            self.scene.faults.append(f"{host.name} has no zygote")
        for pid in zygotes:
            processes.send(pid, signal.SIGKILL)
        agents = [row.pid for row in self.scene.agents.rows(5.0) if row.host_id == host.name and row.pid]
        if agents:
            processes.send(self.scene.chance.choice(agents), signal.SIGKILL)


class WipeRedis(Nemesis):
    """FLUSHALL of the registry's Redis."""

    name = "wipe-redis"

    def strike(self) -> None:
        ask_redis(self.scene.stack.registry.node, "FLUSHALL")


class StepClock(Nemesis):
    """Steps the wall clock of the registry's Redis, forward and back, and kills a host meanwhile."""

    name = "step-clock"

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self.hold = scene.takeover
        self.host: Program

    def strike(self) -> None:
        self.scene.stack.clock.step(self.scene.chance.choice([11.0, 3600.0, -3600.0]))
        self.host = self.scene.busy_host()
        self.host.kill()
        self.scene.stack.clock.step(self.scene.chance.choice([11.0, 3600.0, -3600.0]))

    def heal(self) -> None:
        self.host.start()
