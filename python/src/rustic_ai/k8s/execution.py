"""K8sExecutionEngine: Rustic AI's `ExecutionEngine`, carried out by engine-svc."""

from collections.abc import Iterator, Mapping
import contextlib
import json
import logging
import os
import time
from typing import Any, Dict, List, Optional, Self, Type
import uuid
import warnings

import grpc
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from rustic_ai.agent.v1 import agent_pb2
from rustic_ai.core.guild.agent import Agent, AgentSpec
from rustic_ai.core.guild.dsl import GuildSpec
from rustic_ai.core.guild.execution.execution_engine import ExecutionEngine
from rustic_ai.core.messaging import Client, MessagingConfig, SimpleClient
from rustic_ai.engine.v1 import engine_service_pb2 as pb
from rustic_ai.k8s import client, errors
from rustic_ai.k8s.description import AgentDescription, HostDescription, phase_of
from rustic_ai.k8s.launches import Launch, Launches
from rustic_ai.k8s.metastore import unreachable_database
from rustic_ai.k8s.settings import EngineSettings

logger = logging.getLogger(__name__)

# Agents that have a process or are about to have one.
_ALIVE = frozenset(
    {
        agent_pb2.AGENT_PHASE_PENDING,
        agent_pb2.AGENT_PHASE_STARTING,
        agent_pb2.AGENT_PHASE_RUNNING,
        agent_pb2.AGENT_PHASE_RESTARTING,
    }
)
_COMING = _ALIVE - {agent_pb2.AGENT_PHASE_RUNNING}
_PAGE = 200
# What is wrong with one agent, and says nothing of the next one.
_OF_THIS_AGENT = (errors.InvalidAgentError, errors.AgentStartError, errors.AgentConflictError, errors.NoRoomError)
# Backends whose messages do not leave their process.
_IN_ONE_PROCESS = frozenset({"InMemoryMessagingBackend", "EmbeddedMessagingBackend"})


class K8sExecutionEngine(ExecutionEngine):
    """Runs agents on a cluster of agent-hosts, one operating system process each.

    Every method may raise `rustic_ai.k8s.errors.K8sEngineError`, which names the agent, the host and the reason.
    Methods may be called from any thread, and from an agent that launches agents.
    """

    def __init__(
        self,
        guild_id: str,
        organization_id: str,
        redis_url: Optional[str] = None,
        agent_host_service_name: Optional[str] = None,
        k8s_namespace: Optional[str] = None,
        engine_address: Optional[str] = None,
        detach_on_shutdown: Optional[bool] = None,
        runtime_profile: Optional[str] = None,
        wait_for_any_host: Optional[bool] = None,
        wait_until_running: Optional[bool] = None,
        placement: Optional[Mapping[str, Any]] = None,
    ) -> None:
        """Prepares the engine; connects with the first call.

        Args:
            guild_id: Id of the guild.
            organization_id: Id of its organization; guilds of two organizations may have one id.
            redis_url: Has no effect but a warning: engine-svc knows the registry.
            agent_host_service_name: Has no effect but a warning: engine-svc finds hosts by their lease.
            k8s_namespace: Namespace of the default address. Default: `RUSTIC_K8S_NAMESPACE`, else the namespace of this pod if
                it has an engine-svc, else `rustic-ai`.
            engine_address: `host:port` of engine-svc. Default: `RUSTIC_ENGINE_ADDRESS`, else
                `engine-svc.<namespace>:50051`.
            detach_on_shutdown: Whether `shutdown` leaves the agents running. Default: `RUSTIC_DETACH_ON_SHUTDOWN`.
            runtime_profile: Python environment of the hosts in which agents run. Default: `RUSTIC_RUNTIME_PROFILE`,
                else the hosts' own.
            wait_for_any_host: Whether agents that no host could ever hold wait for larger ones, which somebody or an
                autoscaler adds, and are not refused. Default: `RUSTIC_WAIT_FOR_ANY_HOST`, else no.
            wait_until_running: Whether `run_agent` returns only when the agent runs. Default: `RUSTIC_LAUNCH_WAIT`, which is
                `accepted` or `running`, else no.
            placement: On which hosts all agents of the guild may be, and would rather be: `Placement` of the API as JSON names it, such
                as `{"anti_affinities": [{"scope": "ANTI_AFFINITY_SCOPE_NAME"}], "movable": True}`. Default: `RUSTIC_PLACEMENT`, the
                same as JSON, else anywhere.

        Raises:
            ValueError: The placement, or an environment variable, cannot be understood.
        """
        super().__init__(guild_id=guild_id, organization_id=organization_id)
        for name, value in {"redis_url": redis_url, "agent_host_service_name": agent_host_service_name}.items():
            if value is not None:
                warnings.warn(f"{name} has no effect: engine-svc knows the registry and its hosts", stacklevel=2)
        self._settings = EngineSettings.read(
            engine_address,
            k8s_namespace,
            detach_on_shutdown,
            runtime_profile,
            wait_for_any_host,
            wait_until_running,
            placement,
        )
        self._launches = Launches(organization_id, guild_id, self._connection, self._settings.reports)

    @classmethod
    def from_env(cls, guild_id: Optional[str] = None, organization_id: Optional[str] = None, **settings: Any) -> Self:
        """The engine of a guild, for code that runs in one of its agents, or names the guild.

        Args:
            guild_id: Id of the guild. Default: that of the agent that this process is.
            organization_id: Id of its organization. Default: that of the agent that this process is.
            **settings: What the constructor takes.

        Raises:
            ValueError: This process is no agent, and an id was not given; or an environment variable cannot be understood.
        """
        given = {"RUSTIC_AGENT_GUILD_ID": guild_id, "RUSTIC_AGENT_ORGANIZATION_ID": organization_id}
        ids = {name: given[name] or os.environ.get(name, "") for name in given}
        missing = [name for name, value in ids.items() if not value]
        if missing:
            raise ValueError(f"this process is no agent ({' and '.join(missing)} not set); give the ids of a guild")
        guild, organization = ids.values()
        return cls(guild, organization, **settings)

    @property
    def engine_address(self) -> str:
        """Address of engine-svc, `host:port`."""
        return self._settings.address

    def run_agent(
        self,
        guild_spec: GuildSpec,
        agent_spec: AgentSpec,
        messaging_config: MessagingConfig,
        machine_id: int,
        client_type: Type[Client] = SimpleClient,
        client_properties: Dict[str, Any] = {},
        default_topic: str = "default_topic",
    ) -> Optional[Agent]:
        """Launches an agent. Returns when it runs, or has been accepted and takes longer than two seconds.

        Idempotent: an agent that is there with the same launch is left alone. One for which no host has room is accepted, waits, and
        starts as soon as there is some. What can be known to be wrong is refused at once: a class that cannot be imported, a spec
        that Rustic AI refuses, an agent that no host could ever hold. Where this process is an agent itself, such as a guild's
        manager, which launches one agent after the other, that is logged and reported to the guild as the agent's health instead
        of raised, and so is a launch that fails later (`RUSTIC_LAUNCH_ERRORS`).

        Args:
            guild_spec: The guild's spec.
            agent_spec: The agent's spec.
            messaging_config: How the agent reaches the message bus; must be reachable from the hosts.
            machine_id: Not used: engine-svc hands out the smallest free machine id of the guild, because Rustic AI
                accepts none above 255.
            client_type: Messaging client, one of those that `rustic_ai.core.messaging` exports.
            client_properties: Properties of the client; must be JSON.
            default_topic: Not used: an agent's topics are in its spec.

        Returns:
            None: the agent lives in another process.

        Raises:
            errors.InvalidAgentError: What was asked for is wrong; `fields` says what.
            errors.AgentConflictError: The agent is there with another launch.
            errors.AgentTooLargeError: No host could ever hold it.
        """
        launch = Launch(agent_spec.id, agent_spec.name, messaging_config)
        try:
            agent = self._create(guild_spec, agent_spec, messaging_config, client_type, client_properties)
        except _OF_THIS_AGENT as error:
            if not self._settings.reports:
                raise
            self._launches.report(launch, str(error))
            return None
        subject = f"{agent.guild_id}/{agent.agent_id}"
        if agent.phase == agent_pb2.AGENT_PHASE_RUNNING:
            logger.info("agent %s runs on %s, pid %d", subject, agent.host_id, agent.pid)
            return None
        if agent.phase == agent_pb2.AGENT_PHASE_PENDING:
            logger.warning("agent %s waits: %s", subject, agent.message)
        else:
            logger.info("agent %s was accepted by %s and is being started %s", subject, agent.host_id, agent.message)
        self._launches.follow(launch, agent.epoch)
        return None

    def get_agents_in_guild(self, guild_id: str) -> Dict[str, AgentSpec]:
        """The guild's agents that have a process or are about to have one, by id, as they were launched."""
        return {agent.agent_id: _spec(agent) for agent in self._list(guild_id, "")}

    def find_agents_by_name(self, guild_id: str, agent_name: str) -> List[AgentSpec]:
        """The guild's agents of this name, as they were launched."""
        return [_spec(agent) for agent in self._list(guild_id, agent_name)]

    def is_agent_running(self, guild_id: str, agent_id: str) -> bool:
        """Whether the agent is RUNNING: ready, and not stopped, restarting or failed."""
        try:
            agent = self._get(guild_id, agent_id, agent_pb2.AGENT_VIEW_BASIC)
        except errors.AgentUnknownError:
            return False
        return agent.phase == agent_pb2.AGENT_PHASE_RUNNING

    def describe(self, agent_id: str) -> AgentDescription:
        """All that is known of an agent of this guild.

        Raises:
            errors.AgentUnknownError: There is no such agent.
        """
        return AgentDescription.of(self._get(self.guild_id, agent_id, agent_pb2.AGENT_VIEW_FULL))

    def logs(self, agent_id: str) -> tuple[str, ...]:
        """The last lines that an agent of this guild wrote, at most 50, once it has FAILED; else none.

        The log of its host has all lines of all its agents, each with the agent's id.

        Raises:
            errors.AgentUnknownError: There is no such agent.
        """
        return tuple(self._get(self.guild_id, agent_id, agent_pb2.AGENT_VIEW_FULL).last_lines)

    def wait_until_running(self, *agent_ids: str, timeout: Optional[float] = None) -> None:
        """Waits until agents of this guild run.

        Args:
            *agent_ids: Their ids.
            timeout: Seconds for all of them. Default: `RUSTIC_CREATE_TIMEOUT`.

        Raises:
            errors.AgentStartError: One has failed.
            errors.AgentTimeoutError: One did not run in time.
            errors.AgentUnknownError: There is no such agent, or it was stopped meanwhile.
        """
        give_up = time.monotonic() + (timeout or self._settings.create_timeout)
        for agent_id in agent_ids:
            self._wait_for_running(self._get(self.guild_id, agent_id, agent_pb2.AGENT_VIEW_BASIC), give_up)

    def restart(self, agent_id: str) -> None:
        """Stops an agent of this guild in order and starts it anew, perhaps on another host; returns when it runs.

        Raises:
            errors.AgentUnknownError: There is no such agent.
        """
        request = pb.RestartAgentRequest(
            organization_id=self.organization_id, guild_id=self.guild_id, agent_id=agent_id
        )
        subject = f"{self.guild_id}/{agent_id}"
        self._call("RestartAgent", request, "restart agent", subject, self._settings.create_timeout)

    def hosts(self) -> List[HostDescription]:
        """The hosts of the cluster."""
        request, found = pb.ListHostsRequest(page_size=_PAGE), []
        while True:
            response = self._call("ListHosts", request, "list hosts of", "the cluster")
            found += map(HostDescription.of, response.hosts)
            if not response.next_page_token:
                return found
            request.page_token = response.next_page_token

    def stop_agent(self, guild_id: str, agent_id: str) -> None:
        """Stops an agent; returns when its process has ended. An agent that is gone already is no error."""
        self._launches.forget(agent_id)
        request = pb.StopAgentRequest(organization_id=self.organization_id, guild_id=guild_id, agent_id=agent_id)
        try:
            self._call("StopAgent", request, "stop agent", f"{guild_id}/{agent_id}")
        except errors.AgentUnknownError:
            logger.info("agent %s/%s was gone already", guild_id, agent_id)

    def shutdown(self) -> None:
        """Stops the guild's agents and waits for them, unless the engine is set to detach. Idempotent."""
        self._launches.end()
        if self._settings.detach:
            logger.info("guild %s goes on without us", self.guild_id)
            return
        request = pb.StopGuildRequest(organization_id=self.organization_id, guild_id=self.guild_id)
        self._call("StopGuild", request, "stop guild", self.guild_id, timeout=self._settings.create_timeout)

    def _create(
        self,
        guild_spec: GuildSpec,
        agent_spec: AgentSpec,
        messaging_config: MessagingConfig,
        client_type: Type[Client],
        client_properties: Dict[str, Any],
    ) -> agent_pb2.Agent:
        settings, subject = self._settings, f"{guild_spec.id}/{agent_spec.id}"
        if messaging_config.backend_class in _IN_ONE_PROCESS:
            raise errors.wrong(subject, "messaging_config.backend_class", _one_process(messaging_config.backend_class))
        if why := unreachable_database(agent_spec):
            raise errors.wrong(subject, "agent_spec.properties.database_url", f"cannot be used: {why}")
        launch = agent_pb2.AgentLaunch(
            agent_spec=_json(agent_spec, "agent_spec", subject),
            guild_spec=_json(guild_spec, "guild_spec", subject),
            messaging_config=_json(messaging_config, "messaging_config", subject),
            client_type=client_type.get_qualified_class_name(),
            client_properties=_json(client_properties, "client_properties", subject),
            organization_id=self.organization_id,
            inherited_environment=settings.inherited,
        )
        if settings.placement.ByteSize():
            launch.placement.CopyFrom(settings.placement)
        if settings.profile:
            launch.runtime.python.profile = settings.profile
        launch.start_timeout.FromMilliseconds(int(settings.create_timeout * 1000))
        request = pb.CreateAgentRequest(
            request_id=str(uuid.uuid4()),
            launch=launch,
            pending=settings.pending,
            wait=agent_pb2.WAIT_MODE_RUNNING if settings.waits else agent_pb2.WAIT_MODE_LAUNCHED,
        )
        # A little longer than the agent gets, so that the host's own words about a slow agent still reach us.
        timeout = settings.create_timeout + settings.call_timeout
        give_up = time.monotonic() + timeout
        agent = self._call("CreateAgent", request, "create agent", subject, timeout).agent
        return self._wait_for_running(agent, give_up) if settings.waits else agent

    def _wait_for_running(self, agent: agent_pb2.Agent, give_up: float) -> agent_pb2.Agent:
        """Follows the agent while it waits for room or starts on its new host."""
        subject = f"{agent.guild_id}/{agent.agent_id}"
        if agent.phase in _COMING:
            agent = self._follow(agent, subject, give_up)
        if agent.phase == agent_pb2.AGENT_PHASE_FAILED:
            raise errors.failed(agent, self._settings.address)
        return agent

    def _follow(self, agent: agent_pb2.Agent, subject: str, give_up: float) -> agent_pb2.Agent:
        address = self._settings.address
        request = pb.WatchAgentsRequest(
            organization_id=self.organization_id, guild_id=agent.guild_id, agent_id=agent.agent_id
        )
        stub, left = client.stub(address, self._settings.proxy), give_up - time.monotonic()
        seen = False
        with contextlib.closing(client.watch(stub, request, left)) as changes:
            try:
                for change in changes:
                    kind = change.WhichOneof("change")
                    if kind == "agent":
                        agent, seen = change.agent, True
                        if agent.phase not in _COMING:
                            return agent
                    elif kind == "removed" or not seen:
                        break
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise errors.not_running(agent, address) from error
                raise errors.translate(error, "follow agent", subject, address) from error
        # It was stopped: the engine says so in its own words.
        return self._get(agent.guild_id, agent.agent_id, agent_pb2.AGENT_VIEW_BASIC)

    def _get(self, guild_id: str, agent_id: str, view: agent_pb2.AgentView) -> agent_pb2.Agent:
        request = pb.GetAgentRequest(
            organization_id=self.organization_id, guild_id=guild_id, agent_id=agent_id, view=view
        )
        return self._call("GetAgent", request, "look up agent", f"{guild_id}/{agent_id}").agent

    def _list(self, guild_id: str, name: str) -> Iterator[agent_pb2.Agent]:
        request = pb.ListAgentsRequest(
            organization_id=self.organization_id,
            guild_id=guild_id,
            name=name,
            page_size=_PAGE,
            view=agent_pb2.AGENT_VIEW_FULL,
        )
        while True:
            response = self._call("ListAgents", request, "list agents of guild", guild_id)
            yield from (agent for agent in response.agents if agent.phase in _ALIVE)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    def _connection(self) -> client.Connection:
        connection = client.connection(self._settings.address, self._settings.proxy)
        connection.reach(self._settings.call_timeout)
        return connection

    def _call(self, method: str, request: Any, action: str, subject: str, timeout: Optional[float] = None) -> Any:
        address, timeout = self._settings.address, timeout or self._settings.call_timeout
        connection = client.connection(address, self._settings.proxy)
        try:
            connection.reach(timeout)
            return client.call(getattr(connection.stub, method), request, timeout)
        except client.Unreachable as error:
            raise errors.unreachable(error, action, subject, address) from error
        except grpc.RpcError as error:
            raise errors.translate(error, action, subject, address) from error


def _spec(agent: agent_pb2.Agent) -> AgentSpec:
    return AgentSpec.model_validate_json(agent.agent_spec)


def _json(value: Any, field: str, subject: str) -> str:
    """A document of a launch, which travels as JSON."""
    try:
        return value.model_dump_json() if isinstance(value, BaseModel) else json.dumps(value)
    except (PydanticSerializationError, TypeError, ValueError) as error:
        what = f"cannot be sent to another process, as it is no JSON: {error}; give settings instead of live objects"
        raise errors.wrong(subject, field, what) from error


def _one_process(backend_class: str) -> str:
    return (
        f"is {backend_class}, whose messages do not leave their process, and every agent has a process of its own: no message would "
        "arrive; use RedisMessagingBackend of rusticai-redis or NATSMessagingBackend of rusticai-nats"
    )
