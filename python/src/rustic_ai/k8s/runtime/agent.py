"""Builds the agent of a launch document and runs it until SIGTERM."""

from collections.abc import Callable
import contextlib
import importlib
import json
import logging
import sys
import threading
from typing import Any, Type, cast

from pydantic import ValidationError

from rustic_ai.core import messaging
from rustic_ai.core.guild.agent import Agent, AgentSpec
from rustic_ai.core.guild.dsl import GuildSpec, GuildTopics
from rustic_ai.core.guild.execution.agent_wrapper import AgentWrapper
from rustic_ai.core.messaging import Client, Message, MessagingConfig, MessagingInterface
from rustic_ai.core.utils.class_utils import get_agent_class
from rustic_ai.k8s.runtime import confinement
from rustic_ai.k8s.runtime.document import LaunchDocument
from rustic_ai.k8s.runtime.ending import park
from rustic_ai.k8s.runtime.handling import Guard, Head
from rustic_ai.k8s.runtime.host import describe
from rustic_ai.k8s.runtime.proof import closure
from rustic_ai.k8s.runtime.proof.watch import Environment
from rustic_ai.k8s.runtime.reach import REDIS, Reach

logger = logging.getLogger(__name__)

_POLL, _POLL_SECONDS = "pubsub_poll_sleep_time", 1.0
# Time between two nudges of threads that listen for messages while the agent is shut down.
_NUDGE_SECONDS = 0.01
_PING = b"PING\r\n"


class StartFailure(Exception):
    """The agent cannot start.

    Attributes:
        stage: `spec`, `import`, `client_type` or `initialize`.
        field: Field of the launch that is wrong, when the stage is `spec`.
    """

    def __init__(self, stage: str, message: str, field: str = "") -> None:
        super().__init__(message)
        self.stage = stage
        self.field = field


class K8sAgentWrapper(AgentWrapper):
    """Rustic AI's wrapper around one agent that owns its process."""

    # What stands around its handlers; none: they run as Rustic AI has them.
    guard: Guard | None = None
    # Threads that were started while messaging was built.
    built: frozenset[threading.Thread] = frozenset()
    _before: frozenset[threading.Thread] = frozenset()
    _reach: Reach | None = None

    def run(self, fail: Callable[[str], Any] | None = None) -> Agent:
        """Builds the agent and subscribes it; returns when it handles messages.

        Args:
            fail: Takes why the message bus cannot be reached while this waits for it, in another thread; ends the process. None: the
                bus is known to be there.

        Raises:
            StartFailure: The message bus cannot be used.
        """
        self._before = frozenset(threading.enumerate())
        if fail is None:
            return self.initialize_agent()
        self._reach = reach = Reach(self.messaging_config, fail)
        reach.begin()
        try:
            return self.initialize_agent()
        except Exception as error:
            if self.is_connected:
                raise
            if not reach.end():
                # The other thread reports it just now.
                park()
            raise StartFailure("initialize", reach.explain(error)) from error
        finally:
            reach.end()

    @property
    def is_connected(self) -> bool:
        """Whether the message bus has answered."""
        return "messaging" in self.__dict__

    @property
    def messaging(self) -> MessagingInterface:
        """The agent's messaging.

        Raises:
            AttributeError: There is none yet.
        """
        if "messaging" not in self.__dict__:
            raise AttributeError("messaging")
        return self.__dict__["messaging"]

    @messaging.setter
    def messaging(self, messaging: MessagingInterface) -> None:
        # Rustic AI sets it before it builds and subscribes the agent: the one moment at which handlers can be guarded.
        if self._reach is not None:
            self._reach.greet(messaging.backend)
            if not self._reach.end():
                park()
        self.__dict__["messaging"] = messaging
        self.built = frozenset(threading.enumerate()) - self._before
        if self.guard is not None:
            self.guard.attach(messaging.backend, self._concerns, self._topics)

    def _topics(self) -> list[str]:
        """What the agent subscribes to, with the namespace."""
        topics = self.agent.subscribed_topics if self.agent is not None else []
        return list(self.messaging._get_namespaced_topics(topics).values())

    def _concerns(self, client_id: str | None, head: Head) -> bool:
        """Whether the agent is handed a message and has a handler for it: not one of its own, unless it sent it to itself; nor what no
        handler takes, such as the reports of health of all other agents, which make up most of the messages of a guild. Whatever other
        clients do with messages, such as one that the agent itself has made, is theirs to know."""
        agent, topic = self.agent, head.topic_published_to
        if agent is None or client_id != agent._client.id or topic is None:
            return True
        if type(agent)._on_message is not Agent._on_message:
            return True
        if head.sender_id == agent.id and not topic.startswith(GuildTopics.AGENT_SELF_INBOX_PREFIX):
            return False
        try:
            # It looks at nothing but the format and the topic.
            return bool(agent._get_applicable_processors(cast(Message, head)))
        except AttributeError:
            return True


def import_class(document: LaunchDocument, inherited: frozenset[str] | None) -> dict[str, Any] | None:
    """Imports the agent's class, and those of the dependencies that it will be given.

    Args:
        document: The launch.
        inherited: Modules that were there when this process was forked, if its host wants to know what the class imports.

    Returns:
        What the host wants to know: the class's module, units of modules (see `proof.closure`), and variables of the environment
        that were asked for meanwhile.

    Raises:
        StartFailure: The class cannot be imported.
    """
    class_name = _class_name(document)
    environment = None if inherited is None else Environment.watch()
    try:
        agent_class = get_agent_class(class_name)
        _import_dependencies(document, agent_class)
    except Exception as error:
        # Whatever a module raises while it is imported is its author's to read.
        raise StartFailure("import", f"cannot import {class_name!r}: {describe(error)}{confinement.hint(sys.path)}") from error
    finally:
        if environment is not None:
            environment.stop()
    if inherited is None or environment is None:
        return None
    own = class_name.rpartition(".")[0]
    return {"own": own, "units": closure.units(inherited, own), "reads": sorted(environment.reads)}


def _import_dependencies(document: LaunchDocument, agent_class: type[Agent]) -> None:
    """Imports what resolves the agent's dependencies. One that cannot be imported fails when the agent is built."""
    agent_spec, guild_spec = json.loads(document.agent_spec), json.loads(document.guild_spec)
    specs = {**(guild_spec.get("dependency_map") or {}), **(agent_spec.get("dependency_map") or {})}
    keys = {dependency.dependency_key for dependency in agent_class.list_all_dependencies()}
    for key in sorted({*keys, *(agent_spec.get("additional_dependencies") or ())} & specs.keys()):
        name = specs[key].get("class_name", "")
        with contextlib.suppress(Exception):
            importlib.import_module(name.rpartition(".")[0])


def build(document: LaunchDocument) -> K8sAgentWrapper:
    """Turns a launch document into an agent that is not yet initialised. Its class is imported.

    Raises:
        StartFailure: A part of the document cannot be used.
    """
    # Strict: here is where the agent runs, so everything it needs must be here.
    strict = {"require_agent_class": True}
    agent_spec = _validate(AgentSpec, "agent_spec", document.agent_spec, context=strict)
    guild_spec = _validate(GuildSpec, "guild_spec", document.guild_spec)
    messaging_config = _validate(MessagingConfig, "messaging_config", document.messaging_config)
    quieten(messaging_config)
    return K8sAgentWrapper(
        guild_spec=guild_spec,
        agent_spec=agent_spec,
        messaging_config=messaging_config,
        machine_id=document.machine_id,
        client_type=client_class(document.client_type),
        client_properties=json.loads(document.client_properties or "{}"),
        organization_id=document.organization_id or None,
    )


def client_class(name: str) -> Type[Client]:
    """Finds a messaging client by its bare or qualified name.

    Raises:
        StartFailure: `rustic_ai.core.messaging` exports no such client.
    """
    bare = (name or "SimpleClient").rsplit(".", 1)[-1]
    found: Any = getattr(messaging, bare, None) if bare in messaging.__all__ else None
    is_client = isinstance(found, type) and issubclass(found, Client)
    if is_client and name in ("", bare, found.get_qualified_class_name(), f"{messaging.__name__}.{bare}"):
        return found
    known = sorted(
        export
        for export in messaging.__all__
        if isinstance(candidate := getattr(messaging, export), type) and issubclass(candidate, Client)
    )
    raise StartFailure("client_type", f"unknown client type {name!r}; choose one of {', '.join(known)}")


def quieten(messaging_config: MessagingConfig) -> None:
    """Lets an idle agent sleep: raises the time for which rusticai-redis waits for messages, unless the caller chose.

    The wait ends as soon as data arrives, so messages are not delayed (`docs/performance.md` has the figures); with the
    default of 10 ms an idle agent uses ten times the processor time. A guild that was given a `RedisBackendConfig` writes down all
    its fields: there the default is nobody's choice.
    """
    client = messaging_config.backend_config.get("redis_client")
    if messaging_config.backend_module == REDIS and isinstance(client, dict):
        if _is_written_down(client) and client[_POLL] == _default(_POLL):
            del client[_POLL]
        client.setdefault(_POLL, _POLL_SECONDS)


def _is_written_down(client: dict[str, Any]) -> bool:
    """Whether settings are a `RedisBackendConfig` with all its fields, and not what somebody chose of them."""
    if _POLL not in client or len(client) == 1:
        return False
    from rustic_ai.redis.messaging.connection_manager import RedisBackendConfig

    return client.keys() >= RedisBackendConfig.model_fields.keys()


def _default(field: str) -> Any:
    from rustic_ai.redis.messaging.connection_manager import RedisBackendConfig

    return RedisBackendConfig.model_fields[field].default


def _class_name(document: LaunchDocument) -> str:
    return json.loads(document.agent_spec).get("class_name", "")


def _validate(model: Any, field: str, text: str, **options: Any) -> Any:
    try:
        return model.model_validate_json(text, **options)
    except ValidationError as error:
        raise StartFailure("spec", f"{field} is not what Rustic AI expects: {error}", field) from error


def shut_down(wrapper: K8sAgentWrapper, seconds: float) -> None:
    """Unsubscribes the agent, for at most so long: a bus that does not answer must not keep the process. No handler is at
    work any more."""

    def work() -> None:
        try:
            wrapper.shutdown()
        except Exception:
            logger.exception("the agent could not be unsubscribed")

    thread = threading.Thread(target=work, name="shutdown", daemon=True)

    def nudge() -> None:
        while thread.is_alive():
            thread.join(_NUDGE_SECONDS)
            _wake_listeners()

    thread.start()
    # On its own, as it writes to connections that may be full.
    threading.Thread(target=nudge, name="nudge", daemon=True).start()
    thread.join(seconds)
    if thread.is_alive():
        logger.warning("the agent was not unsubscribed within %.1f s", seconds)


def _wake_listeners() -> None:
    """Wakes redis-py's listening threads, so that they notice at once that they shall end, and not when the wait that
    `quieten` made longer is over.

    Past redis-py: its own `ping` would find a connection that is just being closed, make it anew and hold its lock
    meanwhile, for which the thread that unsubscribes the agent would have to wait.
    """
    redis_client = sys.modules.get("redis.client")
    for thread in threading.enumerate() if redis_client else ():
        if isinstance(thread, redis_client.PubSubWorkerThread):
            thread.pubsub.subscribed_event.set()
            socket = getattr(thread.pubsub.connection, "_sock", None)
            if socket is not None:
                # Closed already: it has noticed.
                with contextlib.suppress(OSError):
                    socket.send(_PING)
