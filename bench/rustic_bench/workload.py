"""What every peer is given: the same agents, in guilds of the same size, on the same message bus."""

from dataclasses import dataclass
import os
from typing import Iterator
from urllib.parse import urlparse
import uuid

AGENT_CLASS = "rustic_ai.testing.execution.integration_agents.ResponderProbeAgent"
# Agents of one guild hear each other's status messages and replay the topics' history, so starting N agents in one
# guild costs N². Twenty is the size of guild that all figures are about.
GUILD_SIZE = 20
ORGANIZATION = "bench"


@dataclass(frozen=True)
class Launch:
    """One agent to start.

    Attributes:
        guild: JSON of its GuildSpec.
        agent: JSON of its AgentSpec.
        messaging: JSON of its MessagingConfig.
        machine_id: For Rustic AI's id generator; unique in its guild.
    """

    guild_id: str
    agent_id: str
    guild: str
    agent: str
    messaging: str
    machine_id: int


def redis_address() -> tuple[str, int]:
    """Host and port of the Redis that RUSTIC_REDIS_URL names."""
    url = urlparse(os.environ["RUSTIC_REDIS_URL"])
    return url.hostname or "127.0.0.1", url.port or 6379


def messaging():
    """The Redis messaging backend, every setting at its default."""
    from rustic_ai.core.messaging import MessagingConfig

    host, port = redis_address()
    return MessagingConfig(
        backend_module="rustic_ai.redis.messaging.backend",
        backend_class="RedisMessagingBackend",
        backend_config={"redis_client": {"host": host, "port": port}},
    )


def launches(count: int) -> Iterator[Launch]:
    """New agents with new names, in guilds of `GUILD_SIZE`."""
    from rustic_ai.core.guild.agent import AgentSpec
    from rustic_ai.core.guild.dsl import GuildSpec

    bus = messaging().model_dump_json()
    for index in range(count):
        place = index % GUILD_SIZE
        if place == 0:
            guild = GuildSpec(id=f"bench-{uuid.uuid4()}", name="bench", description="a guild of the benchmark")
        agent = AgentSpec(
            id=f"agent-{place}",
            name=f"agent-{place}",
            description="an agent of the benchmark",
            class_name=AGENT_CLASS,
        )
        yield Launch(guild.id, agent.id, guild.model_dump_json(), agent.model_dump_json(), bus, place + 1)
