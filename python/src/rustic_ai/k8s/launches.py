"""Follows agents that were accepted and do not run yet, logs what becomes of them, and reports failures to their guild.

```
 accepted ──▶ followed ──RUNNING, or gone──▶ forgotten
                 │  ▲
          FAILED │  │ runs again
                 ▼  │
               reported: an error in the log, and a heartbeat with the reason where Rustic AI looks for the guild's health
```
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
import logging
import threading

import grpc

from rustic_ai.agent.v1 import agent_pb2
from rustic_ai.core.guild.agent_ext.mixins.health import Heartbeat, HealthConstants, HeartbeatStatus
from rustic_ai.core.messaging import Message, MessagingConfig
from rustic_ai.core.messaging.core.message import AgentTag
from rustic_ai.core.utils import GemstoneGenerator
from rustic_ai.core.utils.basic_class_utils import get_qualified_class_name
from rustic_ai.core.utils.priority import Priority
from rustic_ai.engine.v1 import engine_service_pb2 as pb
from rustic_ai.k8s import client

logger = logging.getLogger(__name__)

# Seconds that one watch lasts, and those before the next one if it broke.
_WATCH = 3600.0
_PAUSE = 1.0
# Machine of the ids of messages that no agent has sent.
_NO_AGENT = 0

_SETTLED = frozenset({agent_pb2.AGENT_PHASE_RUNNING, agent_pb2.AGENT_PHASE_FAILED})


@dataclass(frozen=True)
class Launch:
    """An agent that was launched.

    Attributes:
        agent_id: Its id.
        name: Its name.
        messaging: Where its guild's messages are.
    """

    agent_id: str
    name: str
    messaging: MessagingConfig


class Launches:
    """The launches of one guild that are not settled. A thread follows them, as long as there are any."""

    def __init__(self, organization_id: str, guild_id: str, connect: Callable[[], client.Connection], reports: bool) -> None:
        """Follows nobody yet.

        Args:
            organization_id: The guild's organization.
            guild_id: The guild.
            connect: Gives the connection to the engine.
            reports: Whether agents that have failed are reported to the guild.
        """
        self._organization_id = organization_id
        self._guild_id = guild_id
        self._connect = connect
        self._reports = reports
        self._lock = threading.Lock()
        self._followed: dict[str, Launch] = {}
        # All agents of the guild, as the watch that goes on has sent them.
        self._watched: dict[str, agent_pb2.Agent] = {}
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def follow(self, launch: Launch, epoch: int) -> None:
        """Follows an agent, from the claim that its launch was answered with, until it runs, has failed, or is gone."""
        with self._lock:
            self._followed[launch.agent_id] = launch
            watched = self._watched.get(launch.agent_id)
            if self._thread is None and not self._ended.is_set():
                self._thread = threading.Thread(target=self._work, name="launches", daemon=True)
                self._thread.start()
        # The watch may have been faster than the answer.
        if watched is not None and watched.epoch >= epoch:
            self._changed(watched)

    def forget(self, agent_id: str) -> None:
        """Follows an agent no longer."""
        with self._lock:
            self._followed.pop(agent_id, None)
            self._watched.pop(agent_id, None)

    def end(self) -> None:
        """Follows nobody any more."""
        with self._lock:
            self._followed.clear()
        self._ended.set()

    def report(self, launch: Launch, reason: str) -> None:
        """Logs that an agent has failed, and reports it to its guild if that is wanted."""
        logger.error("agent %s/%s has failed: %s", self._guild_id, launch.agent_id, reason)
        if not self._reports:
            return
        try:
            self._publish(launch, HeartbeatStatus.ERROR, reason)
        except Exception:
            # The log has it; whoever launches goes on.
            logger.exception("it cannot be reported to guild %s that agent %s has failed", self._guild_id, launch.agent_id)

    def _work(self) -> None:
        while not self._ended.is_set():
            try:
                self._watch()
            except (grpc.RpcError, client.Unreachable) as error:
                logger.debug("the launches of guild %s cannot be followed: %s", self._guild_id, error)
            with self._lock:
                if not self._followed:
                    self._thread = None
                    return
            self._ended.wait(_PAUSE)

    def _watch(self) -> None:
        request = pb.WatchAgentsRequest(organization_id=self._organization_id, guild_id=self._guild_id)
        seen: set[str] = set()
        changes = client.watch(self._connect().stub, request, _WATCH)
        try:
            for change in changes:
                kind = change.WhichOneof("change")
                if kind == "agent":
                    seen.add(change.agent.agent_id)
                    self._changed(change.agent)
                elif kind == "removed":
                    self.forget(change.removed.agent_id)
                else:
                    # The end of the beginning: who was not there is gone.
                    self._forget_all_but(seen)
                with self._lock:
                    if not self._followed:
                        return
        finally:
            changes.close()
            with self._lock:
                self._watched.clear()

    def _changed(self, agent: agent_pb2.Agent) -> None:
        with self._lock:
            self._watched[agent.agent_id] = agent
            launch = self._followed.get(agent.agent_id)
            if launch is None:
                return
            if agent.phase in _SETTLED:
                del self._followed[agent.agent_id]
        if agent.phase == agent_pb2.AGENT_PHASE_FAILED:
            self.report(launch, agent.message)
        elif agent.phase == agent_pb2.AGENT_PHASE_RUNNING:
            logger.info("agent %s/%s runs on %s", self._guild_id, agent.agent_id, agent.host_id)

    def _forget_all_but(self, seen: set[str]) -> None:
        with self._lock:
            self._followed = {agent: launch for agent, launch in self._followed.items() if agent in seen}

    def _publish(self, launch: Launch, status: HeartbeatStatus, reason: str) -> None:
        """Publishes a heartbeat in the name of an agent that cannot."""
        heartbeat = Heartbeat(checktime=datetime.now(), checkstatus=status, checkmeta={"reason": reason})
        message = Message(
            id_obj=GemstoneGenerator(_NO_AGENT).get_id(Priority.HIGH),
            sender=AgentTag(id=launch.agent_id, name=launch.name),
            topics=HealthConstants.HEARTBEAT_TOPIC,
            topic_published_to=HealthConstants.HEARTBEAT_TOPIC,
            payload=heartbeat.model_dump(),
            format=get_qualified_class_name(Heartbeat),
        )
        bus = launch.messaging.get_storage()
        try:
            bus.store_message(self._guild_id, f"{self._guild_id}:{HealthConstants.HEARTBEAT_TOPIC}", message)
        finally:
            bus.cleanup()
