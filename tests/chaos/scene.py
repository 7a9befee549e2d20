"""What a nemesis has to do with: the stack, its agents, chance, and a place to report to."""

from dataclasses import dataclass, field
import random

import grpc

from chaos.agents import Agents, Name
from chaos.checker import Pause
from chaos.producer import Producer
from chaos.programs import Program
from chaos.stack import Stack


@dataclass
class Scene:
    """A running stack with agents.

    Attributes:
        stack: The stack.
        agents: Its agents.
        producer: Who writes to them.
        chance: Seeded.
        pauses: When which processes were stopped, for the checker.
        faults: What went wrong, in words, of the strike that is under way.
    """

    stack: Stack
    agents: Agents
    producer: Producer
    chance: random.Random
    pauses: list[Pause] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def ttl(self) -> float:
        """Length of a lease, seconds."""
        return self.stack.settings.ttl

    @property
    def takeover(self) -> float:
        """Seconds after a host's last renewal when its agents are certainly being taken over."""
        return self.ttl + self.stack.settings.grace + 1

    def busy_host(self) -> Program:
        """A host that has agents, by chance; the more it has the likelier."""
        hosts = {host.name: host for host in self.stack.hosts}
        try:
            rows = sorted(row.host_id for row in self.agents.rows(5.0) if row.host_id in hosts)
        except grpc.RpcError:
            rows = []
        return hosts[self.chance.choice(rows or sorted(hosts))]

    def names(self) -> list[Name]:
        """All agents that nobody has stopped."""
        return list(self.agents.accepted.values())
