"""The bare floor: import once, fork, parse, initialise. No control plane, no registry, no leases.

What no engine that runs real agents in processes of their own can beat by much.
"""

import gc
import os
import select
import signal
import time

from rustic_bench import figures, processes, workload


def import_everything() -> None:
    import rustic_ai.core.guild.execution.agent_wrapper  # noqa: F401
    import rustic_ai.redis.messaging.backend  # noqa: F401
    import rustic_ai.testing.execution.integration_agents  # noqa: F401


def _start(launch: workload.Launch) -> tuple[int, int]:
    """Forks an agent; returns its process id and the pipe on which it says that it is ready."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            _live(launch, writer)
        finally:
            os._exit(1)
    os.close(writer)
    return pid, reader


def _live(launch: workload.Launch, writer: int) -> None:
    from rustic_ai.core.guild.agent import AgentSpec
    from rustic_ai.core.guild.dsl import GuildSpec
    from rustic_ai.core.guild.execution.agent_wrapper import AgentWrapper
    from rustic_ai.core.messaging import MessagingConfig

    class Wrapper(AgentWrapper):
        def run(self) -> None:
            self.initialize_agent()

    wrapper = Wrapper(
        guild_spec=GuildSpec.model_validate_json(launch.guild),
        agent_spec=AgentSpec.model_validate_json(launch.agent),
        messaging_config=MessagingConfig.model_validate_json(launch.messaging),
        machine_id=launch.machine_id,
        organization_id=workload.ORGANIZATION,
    )
    wrapper.run()
    os.write(writer, b"!")
    while True:
        signal.pause()


def _wait(reader: int) -> None:
    if os.read(reader, 1) != b"!":
        raise RuntimeError("an agent ended before it was ready")
    os.close(reader)


def _stop(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        os.waitpid(pid, 0)


def one_by_one(count: int) -> dict:
    seconds, pids = [], []
    for launch in workload.launches(count):
        began = time.monotonic()
        pid, reader = _start(launch)
        _wait(reader)
        seconds.append(time.monotonic() - began)
        pids.append(pid)
    _stop(pids)
    return figures.times("floor", seconds)


def burst(count: int) -> dict:
    launches = list(workload.launches(count))
    began = time.monotonic()
    agents = [_start(launch) for launch in launches]
    waiting = {reader for _, reader in agents}
    while waiting:
        for reader in select.select(list(waiting), [], [])[0]:
            _wait(reader)
            waiting.discard(reader)
    seconds = time.monotonic() - began
    _stop([pid for pid, _ in agents])
    return figures.rate("floor", count, seconds)


def memory(count: int) -> dict:
    pids = []
    for launch in workload.launches(count):
        pid, reader = _start(launch)
        _wait(reader)
        pids.append(pid)
    row = processes.idle_row("floor", pids, [os.getpid(), *pids])
    _stop(pids)
    return row


if __name__ == "__main__":
    # No output of the agents: writing it costs the same for everybody.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    import_everything()
    gc.collect()
    gc.freeze()
    one_by_one(5)
    figures.carry_out({"one_by_one": one_by_one, "burst": burst, "memory": memory})
