"""The agent that chaos is done to: it writes its lifeline and answers numbered messages."""

from array import array
import os
from pathlib import Path
import threading
import time
from typing import NoReturn

from rustic_ai.core.guild import agent
from rustic_ai.core.guild.agent import Agent, ProcessContext
from rustic_ai.core.messaging.core import JsonDict

# Seconds between two ticks, and so how much later than its last tick a life may have ended.
TICK = 0.02
_FOLDER = "CHAOS_LIFELINES"


class LifelineAgent(Agent):
    """Answers every message that has a number, on the default topic, with the same number."""

    def __init__(self) -> None:
        """Starts the lifeline: Rustic AI calls this before the agent subscribes to anything."""
        # Requests and answers go by different topics, so that one writer orders all that an agent must handle.
        self._route_to_default_topic = True
        path = Path(os.environ[_FOLDER]) / file_name(
            self.guild_spec.id, self.id, int(os.environ["RUSTIC_AGENT_EPOCH"]), os.getpid()
        )
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        _tick(descriptor)
        threading.Thread(target=_tick_for_ever, args=(descriptor,), name="lifeline", daemon=True).start()

    @agent.processor(JsonDict, lambda _, message: "number" in message.payload)
    def answer(self, ctx: ProcessContext[JsonDict]) -> None:
        """Answers one request."""
        ctx.send_dict({"answers": ctx.payload["number"], "agent": self.id, "pid": os.getpid()})


def file_name(guild: str, agent_id: str, epoch: int, pid: int) -> str:
    """Name of the file of one life."""
    return f"{guild}~{agent_id}~{epoch}~{pid}"


def _tick(descriptor: int) -> None:
    os.write(descriptor, time.clock_gettime_ns(time.CLOCK_BOOTTIME).to_bytes(8, "little"))


def _tick_for_ever(descriptor: int) -> NoReturn:
    while True:
        time.sleep(TICK)
        _tick(descriptor)


def read(path: Path) -> tuple[str, int, int, array[int]]:
    """Reads a life: `guild/agent`, epoch, process id, and its ticks in nanoseconds of CLOCK_BOOTTIME."""
    guild, agent_id, epoch, pid = path.name.split("~")
    ticks: array[int] = array("q")
    data = path.read_bytes()
    ticks.frombytes(data[: len(data) // 8 * 8])
    return f"{guild}/{agent_id}", int(epoch), int(pid), ticks


def last_tick(path: Path) -> int | None:
    """Last tick of a life, or None if there is no such life."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END) // 8 * 8
            file.seek(max(0, size - 8))
            data = file.read(8)
    except FileNotFoundError:
        return None
    return int.from_bytes(data, "little") if len(data) == 8 else None
