"""A small guild starts, talks and ends in the zygote before its first fork, on a message bus of its own.

Imports alone leave an interpreter that has run next to none of the code that every agent runs: CPython specialises
instructions, numbers types and fills caches as it goes, each child for itself, in pages that it must copy to do so.
After a rehearsal children inherit that. What it runs is Rustic AI's own code, with an agent of this module: nothing that a
caller wrote.
"""

from collections.abc import Iterator
import contextlib
import gc
import json
import logging
import os
import signal
import threading
from typing import Any, cast

from rustic_ai.core.guild import Agent, agent
from rustic_ai.core.guild.agent import ProcessContext
from rustic_ai.core.guild.dsl import GuildTopics
from rustic_ai.core.guild.metaprog.agent_registry import AgentRegistry
from rustic_ai.core.messaging import AgentTag, Message, MessageConstants, Priority
from rustic_ai.core.utils import GemstoneGenerator, JsonDict
from rustic_ai.k8s.runtime import life
from rustic_ai.k8s.runtime.agent import K8sAgentWrapper, build, import_class
from rustic_ai.k8s.runtime.document import VERSION, LaunchDocument
from rustic_ai.k8s.runtime.ending import Ending
from rustic_ai.k8s.runtime.handling import Guard
from rustic_ai.k8s.runtime.host import HostSocket
from rustic_ai.k8s.runtime.state import State
from rustic_ai.k8s.runtime.stub_redis import StubRedis

# Seconds, for everything.
_LONGEST = 5.0
_MEMBERS = ("first", "second")


class RehearsalFailed(Exception):
    """It did not end as it should."""


def _player() -> type[Agent]:
    """The class of the members. It is made in here, and taken out of Rustic AI's registry again: the API server looks for agents to
    offer in the source of all that is installed, and what is in the registry is offered."""

    class Player(Agent):
        """Answers a question, notes an answer, and leaves when it is asked to."""

        __qualname__ = "Player"

        def __init__(self) -> None:
            """Without arguments, like every agent."""
            self.answered = threading.Event()
            self.worker: threading.Thread | None = None

        @agent.processor(JsonDict)
        def hear(self, ctx: ProcessContext[JsonDict]) -> None:
            """Handles what others say."""
            match ctx.payload:
                case {"says": "question"}:
                    ctx.send_dict({"says": "answer"})
                case {"says": "answer"}:
                    self.worker = threading.current_thread()
                    self.answered.set()
                case _:
                    # Ends the thread that handles messages, which would notice only half a second later that it has to.
                    raise SystemExit

    AgentRegistry.list_agents().pop(Player.get_qualified_class_name(), None)
    return Player


Player: Any = _player()


class _Nobody:
    """In the place of the host and of the process's end: handlers end their thread and nothing else."""

    is_ours = False

    def __getattr__(self, _: str) -> Any:
        return _ignore


def _ignore(*_: object) -> None:
    pass


def rehearse() -> None:
    """Rehearses, in the main thread, and leaves no thread and no socket behind.

    Raises:
        RehearsalFailed: It went wrong, or took too long; threads or sockets may be left.
    """
    before = set(threading.enumerate())
    # Garbage of the rehearsal is looked for among its own objects, not among all that was imported.
    gc.freeze()
    try:
        with _deadline(), _quiet(), StubRedis() as bus:
            _play("rehearsal", bus.port)
            # None waits for anything any more.
            for thread in set(threading.enumerate()) - before - {bus.thread}:
                thread.join()
    except Exception as error:
        raise RehearsalFailed(f"{type(error).__name__}: {error}") from error
    finally:
        gc.collect()
        gc.unfreeze()


def _play(guild_id: str, port: int) -> None:
    """The members of a guild start, are asked, answer each other, and end."""
    wrappers: list[K8sAgentWrapper] = []
    try:
        for number, name in enumerate(_MEMBERS, 1):
            document = LaunchDocument.parse(_document(guild_id, name, number, port))
            import_class(document, None)
            wrapper = build(document)
            wrappers.append(wrapper)
            wrapper.guard = Guard(State(""), (), cast(HostSocket, _Nobody()), cast(Ending, _Nobody()))
            wrapper.run(_ignore)
            wrapper.guard.settle()
        players = [wrapper.agent for wrapper in wrappers]
        _say(players[0], "question")
        for player in players:
            # The deadline interrupts it.
            player.answered.wait()
        _say(players[0], "farewell")
        for player in players:
            player.worker.join()
    finally:
        for wrapper in wrappers:
            wrapper.shutdown()


def _say(player: Any, what: str) -> None:
    """Says something to the whole guild, by the bus that one of its members uses."""
    message = Message(
        topics=GuildTopics.DEFAULT_TOPICS[0],
        sender=AgentTag(id="audience", name="audience"),
        format=MessageConstants.RAW_JSON_FORMAT,
        payload={"says": what},
        id_obj=GemstoneGenerator(255).get_id(Priority.NORMAL),
    )
    player._client.publish(message)


def _document(guild_id: str, name: str, machine_id: int, port: int) -> bytes:
    # Listeners look up often, so that they end soon.
    client = {"host": "127.0.0.1", "port": port, "pubsub_poll_sleep_time": 0.001}
    messaging = {
        "backend_module": "rustic_ai.redis.messaging.backend",
        "backend_class": "RedisMessagingBackend",
        "backend_config": {"redis_client": client},
    }
    spec = {"id": name, "name": name, "description": "rehearses", "class_name": f"{__name__}.{Player.__name__}"}
    guild = {"id": guild_id, "name": guild_id, "description": "rehearses"}
    return json.dumps(
        {
            "version": VERSION,
            "guild_id": guild_id,
            "agent_id": name,
            "organization_id": "rehearsal",
            "epoch": 1,
            "machine_id": machine_id,
            "agent_spec": json.dumps(spec),
            "guild_spec": json.dumps(guild),
            "messaging_config": json.dumps(messaging),
            "client_type": "",
            "client_properties": "",
        }
    ).encode()


@contextlib.contextmanager
def _deadline() -> Iterator[None]:
    """Raises TimeoutError in the main thread, wherever it waits, when the time is over."""

    def too_late(*_: object) -> None:
        raise TimeoutError(f"it took longer than {_LONGEST:.0f} s")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, _LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Logs as agents do, to nobody."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    with open(os.devnull, "w") as nowhere:
        handler = logging.StreamHandler(nowhere)
        handler.setFormatter(logging.Formatter(life.LOG_FORMAT))
        root.handlers = [handler]
        root.setLevel(logging.INFO)
        try:
            yield
        finally:
            root.handlers = handlers
            root.setLevel(level)
