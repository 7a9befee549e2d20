"""Ours, as guild code sees it: K8sExecutionEngine, engine-svc, one agent-host."""

from concurrent.futures import ThreadPoolExecutor
import os
import time

from rustic_ai.core.guild.agent import AgentSpec
from rustic_ai.core.guild.dsl import GuildSpec
from rustic_ai.core.messaging import MessagingConfig
from rustic_ai.k8s.execution import K8sExecutionEngine
from rustic_bench import figures, processes, workload

# Children of a host that are no agents.
_OWN = ("rustic-zygote", "rustic-watchdog")


class Guilds:
    """Launches agents and stops their guilds in the end."""

    def __init__(self) -> None:
        self._engines: dict[str, K8sExecutionEngine] = {}

    def engine(self, guild_id: str) -> K8sExecutionEngine:
        if guild_id not in self._engines:
            self._engines[guild_id] = K8sExecutionEngine(guild_id, workload.ORGANIZATION)
        return self._engines[guild_id]

    def start(self, launch: workload.Launch) -> float:
        """Starts an agent; returns the seconds until it had subscribed."""
        guild = GuildSpec.model_validate_json(launch.guild)
        agent = AgentSpec.model_validate_json(launch.agent)
        messaging = MessagingConfig.model_validate_json(launch.messaging)
        began = time.monotonic()
        self.engine(guild.id).run_agent(guild, agent, messaging, launch.machine_id)
        return time.monotonic() - began

    def stop(self) -> None:
        for engine in self._engines.values():
            engine.shutdown()


def one_by_one(count: int) -> dict:
    guilds = Guilds()
    seconds = [guilds.start(launch) for launch in workload.launches(count)]
    guilds.stop()
    return figures.times("ours, K8sExecutionEngine", seconds)


def burst(count: int) -> dict:
    guilds, launches = Guilds(), list(workload.launches(count))
    with ThreadPoolExecutor(count) as pool:
        began = time.monotonic()
        list(pool.map(guilds.start, launches))
        seconds = time.monotonic() - began
    guilds.stop()
    return figures.rate("ours, K8sExecutionEngine", count, seconds)


def memory(count: int) -> dict:
    """What idle agents use, with the host and its zygotes."""
    guilds = Guilds()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(guilds.start, workload.launches(count)))
    host = next(pid for pid in processes.children(os.getppid()) if processes.name(pid) == "agent-host")
    agents = [pid for pid in processes.children(host) if processes.name(pid) not in _OWN]
    assert len(agents) == count, f"{len(agents)} processes for {count} agents"
    row = processes.idle_row("ours", agents, [host, *processes.children(host)])
    guilds.stop()
    return row


def calls(count: int) -> list[dict]:
    """is_agent_running and the list of a guild of 20, then a stop of each agent."""
    guilds, launches = Guilds(), list(workload.launches(workload.GUILD_SIZE))
    for launch in launches:
        guilds.start(launch)
    guild_id = launches[0].guild_id
    engine = guilds.engine(guild_id)

    def timed(call, *arguments) -> float:
        began = time.monotonic()
        call(*arguments)
        return time.monotonic() - began

    running = [timed(engine.is_agent_running, guild_id, launches[i % len(launches)].agent_id) for i in range(count)]
    listing = [timed(engine.get_agents_in_guild, guild_id) for _ in range(count)]
    stopping = [timed(engine.stop_agent, guild_id, launch.agent_id) for launch in launches]
    return [
        figures.times("is_agent_running", running),
        figures.times(f"list a guild of {len(launches)}", listing),
        figures.times("stop an idle agent, reaped", stopping),
    ]


if __name__ == "__main__":
    # Not measured: from the first agents the zygote learns what to preload.
    for _ in range(3):
        one_by_one(2)
        time.sleep(1)
    measures = {"one_by_one": one_by_one, "burst": burst, "memory": memory, "calls": calls}
    figures.carry_out(measures)
