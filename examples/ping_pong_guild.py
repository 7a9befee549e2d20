"""A guild of agents that talk to each other, each in a process of its own, on the hosts of a running stack.

Run it with `make demo`, or against a stack of your own (`engine-svc dev --hosts 2`) with the two variables that the
stack prints:

    RUSTIC_ENGINE_ADDRESS=127.0.0.1:50051 RUSTIC_REDIS_URL=redis://127.0.0.1:6379/0 python examples/ping_pong_guild.py
"""

import os
import sys
import threading
import time
from urllib.parse import urlparse
import uuid

from rustic_ai.core.guild import agent
from rustic_ai.core.guild.agent import Agent, ProcessContext
from rustic_ai.core.guild.builders import AgentBuilder
from rustic_ai.core.guild.execution.sync.sync_exec_engine import SyncExecutionEngine
from rustic_ai.core.guild.guild import Guild
from rustic_ai.core.messaging import MessagingConfig
from rustic_ai.core.messaging.core import JsonDict
from rustic_ai.testing.execution.integration_agents import InitiatorProbeAgent, LocalTestAgent, ResponderProbeAgent

from rustic_ai.agent.v1 import agent_pb2
from rustic_ai.engine.v1 import engine_service_pb2 as engine_pb
from rustic_ai.k8s import client

ENGINE = "rustic_ai.k8s.K8sExecutionEngine"
RESPONDERS = 3


class Listener(LocalTestAgent):
    """Sits in this process, starts the conversation and prints what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = threading.Semaphore(0)
        self.began = time.monotonic()

    @agent.processor(JsonDict)
    def hear(self, ctx: ProcessContext[JsonDict]) -> None:
        """Prints one message."""
        sender, text = ctx.message.sender.id, ctx.payload.get("content", "")
        print(f"  {1000 * (time.monotonic() - self.began):7.0f} ms  {sender:<12} {text}", flush=True)
        self.heard.release()


def redis_messaging() -> MessagingConfig:
    """Messaging over the Redis of the stack."""
    url = urlparse(os.environ.get("RUSTIC_REDIS_URL", "redis://127.0.0.1:6379/0"))
    client_config = {"host": url.hostname, "port": url.port or 6379}
    if url.password:
        client_config["password"] = url.password
    return MessagingConfig(
        backend_module="rustic_ai.redis.messaging.backend",
        backend_class="RedisMessagingBackend",
        backend_config={"redis_client": client_config},
    )


def launch(guild: Guild) -> dict[str, float]:
    """Launches the agents; returns how many milliseconds each took to become ready."""
    names = {"initiator": InitiatorProbeAgent}
    names |= {f"responder-{n}": ResponderProbeAgent for n in range(1, RESPONDERS + 1)}
    took = {}
    for agent_id, agent_class in names.items():
        spec = (
            AgentBuilder(agent_class)
            .set_id(agent_id)
            .set_name(agent_id.replace("-", " ").title())
            .set_description("Takes part in a game of ping pong")
            .build_spec()
        )
        began = time.monotonic()
        guild.launch_agent(spec)
        took[agent_id] = 1000 * (time.monotonic() - began)
        print(f"  {agent_id} is launched", flush=True)
    return took


def print_table(guild: Guild, took: dict[str, float]) -> set[str]:
    """Prints where every agent runs; returns the hosts. All that were launched must be there."""
    address = guild._get_execution_engine().engine_address
    request = engine_pb.ListAgentsRequest(organization_id=guild.organization_id, guild_id=guild.id)
    response = client.stub(address).ListAgents(request)
    missing = took.keys() - {row.agent_id for row in response.agents}
    if missing:
        raise RuntimeError(f"engine-svc does not list {', '.join(sorted(missing))}")
    print(f"\n  {'agent':<12} {'host':<14} {'pid':>8} {'phase':<10} {'create ms':>9}")
    for row in response.agents:
        phase = agent_pb2.AgentPhase.Name(row.phase).removeprefix("AGENT_PHASE_")
        print(f"  {row.agent_id:<12} {row.host_id:<14} {row.pid:>8} {phase:<10} {took[row.agent_id]:>9.0f}")
    return {row.host_id for row in response.agents}


def main() -> int:
    """Plays one game. Returns 0 when every message was heard."""
    guild = Guild(
        id=f"ping-pong-{uuid.uuid4().hex[:8]}",
        name="Ping pong",
        description="Agents that answer each other",
        organization_id="demo",
        execution_engine_clz=ENGINE,
        messaging_config=redis_messaging(),
    )
    print(f"guild {guild.id}: launching {RESPONDERS + 1} agents", flush=True)
    try:
        took = launch(guild)
        hosts = print_table(guild, took)
        spec = AgentBuilder(Listener).set_id("you").set_name("You").set_description("Listens").build_spec()
        local = SyncExecutionEngine(guild_id=guild.id, organization_id=guild.organization_id)
        listener = guild._add_local_agent(spec, local)
        print("\nthe conversation, as it happens:", flush=True)
        listener.began = time.monotonic()
        listener.publish_initial_message()
        # One greeting of the initiator, one answer of every responder.
        everyone = all(listener.heard.acquire(timeout=20) for _ in range(1 + RESPONDERS))
    finally:
        # The agents go first, the listener in this process last.
        guild._get_execution_engine().shutdown()
        guild.shutdown()
    print(f"\nguild {guild.id} is stopped; its agents ran on {len(hosts)} hosts")
    if not everyone:
        print("some messages were never heard", file=sys.stderr)
    return 0 if everyone else 1


if __name__ == "__main__":
    sys.exit(main())
