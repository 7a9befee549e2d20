"""MultiProcessExecutionEngine of rusticai-core: a forked process per agent, on the machine of the guild only.

Its `run_agent` returns before the agent is initialised, so readiness is seen from outside: in the number of
subscriptions that Redis counts.
"""

from multiprocessing import resource_tracker
import os
import time

import redis

from rustic_ai.core.guild.agent import AgentSpec
from rustic_ai.core.guild.dsl import GuildSpec
from rustic_ai.core.guild.execution.multiprocess import MultiProcessExecutionEngine
from rustic_ai.core.messaging import MessagingConfig
from rustic_bench import figures, workload
from rustic_bench.peers.floor import import_everything


class Guilds:
    """Launches agents and stops their guilds in the end."""

    def __init__(self, subscriptions: int) -> None:
        """Takes the number of subscriptions of one agent that is ready."""
        self._engines: dict[str, MultiProcessExecutionEngine] = {}
        host, port = workload.redis_address()
        self._redis = redis.Redis(host, port, decode_responses=True)
        self._subscriptions = subscriptions

    def launch(self, launch: workload.Launch) -> None:
        """Starts an agent and does not wait for it."""
        if launch.guild_id not in self._engines:
            engine = MultiProcessExecutionEngine(launch.guild_id, workload.ORGANIZATION, max_processes=1000)
            self._engines[launch.guild_id] = engine
        self._engines[launch.guild_id].run_agent(
            GuildSpec.model_validate_json(launch.guild),
            AgentSpec.model_validate_json(launch.agent),
            MessagingConfig.model_validate_json(launch.messaging),
            launch.machine_id,
        )

    def subscribed(self) -> int:
        """Subscriptions of all agents."""
        return sum(count for _, count in self._redis.pubsub_numsub(*self._redis.pubsub_channels()))

    def wait(self, agents: int) -> None:
        """Waits until so many agents are ready."""
        while self.subscribed() < agents * self._subscriptions:
            time.sleep(0.001)

    def stop(self) -> None:
        for engine in self._engines.values():
            engine.shutdown()
        while self.subscribed():
            time.sleep(0.01)


def _subscriptions_of_one_agent() -> int:
    """Starts an agent and looks how many subscriptions it has in the end."""
    guilds = Guilds(0)
    for launch in workload.launches(1):
        guilds.launch(launch)
    seen, last_change = 0, time.monotonic()
    while time.monotonic() - last_change < 2:
        now = guilds.subscribed()
        if now != seen:
            seen, last_change = now, time.monotonic()
        time.sleep(0.01)
    guilds.stop()
    return seen


def one_by_one(count: int) -> dict:
    guilds, seconds = Guilds(_subscriptions_of_one_agent()), []
    for ready, launch in enumerate(workload.launches(count), start=1):
        began = time.monotonic()
        guilds.launch(launch)
        guilds.wait(ready)
        seconds.append(time.monotonic() - began)
    guilds.stop()
    return figures.times("MultiProcessExecutionEngine", seconds)


def burst(count: int) -> dict:
    guilds, launches = Guilds(_subscriptions_of_one_agent()), list(workload.launches(count))
    began = time.monotonic()
    for launch in launches:
        guilds.launch(launch)
    guilds.wait(count)
    seconds = time.monotonic() - began
    guilds.stop()
    return figures.rate("MultiProcessExecutionEngine", count, seconds)


if __name__ == "__main__":
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    import_everything()
    resource_tracker.ensure_running()
    figures.carry_out({"one_by_one": one_by_one, "burst": burst})
    os._exit(0)
