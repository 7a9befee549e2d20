"""RayExecutionEngine of rusticai-ray, on a Ray of this machine with its own defaults.

An agent is ready when `run()` of its actor has returned, which `ray.get` waits for.
"""

import logging
import os
import time

import ray

from rustic_ai.core.guild.agent import AgentSpec
from rustic_ai.core.guild.dsl import GuildSpec
from rustic_ai.core.messaging import MessagingConfig
from rustic_ai.ray import RayExecutionEngine
from rustic_bench import figures, processes, workload


class Guilds:
    """Launches agents and stops them in the end."""

    def __init__(self) -> None:
        self._engines: dict[str, RayExecutionEngine] = {}
        self._launched: list[workload.Launch] = []

    def launch(self, launch: workload.Launch) -> ray.ObjectRef:
        """Starts an agent. Returns the future result of its actor's `run()`."""
        if launch.guild_id not in self._engines:
            self._engines[launch.guild_id] = RayExecutionEngine(launch.guild_id, workload.ORGANIZATION)
        engine = self._engines[launch.guild_id]
        engine.run_agent(
            GuildSpec.model_validate_json(launch.guild),
            AgentSpec.model_validate_json(launch.agent),
            MessagingConfig.model_validate_json(launch.messaging),
            launch.machine_id,
        )
        self._launched.append(launch)
        return engine.agent_actors[launch.guild_id][launch.agent_id]

    def call(self, method: str, launch: workload.Launch) -> float:
        """Seconds that a call about one agent takes."""
        began = time.monotonic()
        getattr(self._engines[launch.guild_id], method)(launch.guild_id, launch.agent_id)
        return time.monotonic() - began

    def stop(self) -> None:
        for launch in self._launched:
            self.call("stop_agent", launch)


def one_by_one(count: int) -> dict:
    guilds, seconds = Guilds(), []
    for launch in workload.launches(count):
        began = time.monotonic()
        ray.get(guilds.launch(launch))
        seconds.append(time.monotonic() - began)
    guilds.stop()
    return figures.times("RayExecutionEngine", seconds)


def burst(count: int) -> dict:
    guilds, launches = Guilds(), list(workload.launches(count))
    began = time.monotonic()
    ray.get([guilds.launch(launch) for launch in launches])
    seconds = time.monotonic() - began
    guilds.stop()
    return figures.rate("RayExecutionEngine", count, seconds)


def memory(count: int) -> dict:
    guilds = Guilds()
    ray.get([guilds.launch(launch) for launch in workload.launches(count)])
    # An actor's process is named after its class.
    agents = [pid for pid in processes.descendants(os.getpid()) if _is_agent(pid)]
    row = processes.idle_row("RayExecutionEngine", agents, agents)
    guilds.stop()
    return row


def _is_agent(pid: int) -> bool:
    with open(f"/proc/{pid}/cmdline", "rb") as command:
        return b"RayAgentWrapper" in command.read()


def calls(count: int) -> list[dict]:
    guilds, launches = Guilds(), list(workload.launches(5))
    ray.get([guilds.launch(launch) for launch in launches])
    running = [guilds.call("is_agent_running", launches[i % len(launches)]) for i in range(count)]
    stopping = [guilds.call("stop_agent", launch) for launch in launches]
    return [
        figures.times("is_agent_running, Ray", running),
        figures.times("stop an idle agent, Ray, not reaped", stopping),
    ]


if __name__ == "__main__":
    # By default an agent asks for 0.3 cores, and six fill this machine; we measure how fast, not how many.
    os.environ["RUSTIC_NUM_CPUS_PER_AGENT"] = "0.001"
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    one_by_one(2)
    figures.carry_out({"one_by_one": one_by_one, "burst": burst, "memory": memory, "calls": calls})
    ray.shutdown()
