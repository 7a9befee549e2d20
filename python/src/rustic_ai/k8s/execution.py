"""K8sExecutionEngine: Rustic AI's `ExecutionEngine`, carried out by engine-svc."""

from collections.abc import Iterator
import contextlib
import json
import logging
import time
from typing import Any, Dict, List, Optional, Type
import uuid

import grpc

from rustic_ai.agent_host.v1 import agent_pb2
from rustic_ai.core.guild.agent import Agent, AgentSpec
from rustic_ai.core.guild.dsl import GuildSpec
from rustic_ai.core.guild.execution.execution_engine import ExecutionEngine
from rustic_ai.core.messaging import Client, MessagingConfig, SimpleClient
from rustic_ai.engine.v1 import engine_service_pb2 as pb
from rustic_ai.k8s import client, errors
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
    ) -> None:
        """Prepares the engine; connects with the first call.

        Args:
            guild_id: Id of the guild.
            organization_id: Id of its organization.
            redis_url: Accepted so that callers of earlier engines need no change; engine-svc knows the registry.
            agent_host_service_name: Accepted for the same reason; engine-svc finds hosts by their lease.
            k8s_namespace: Namespace of the default address. Default: `RUSTIC_K8S_NAMESPACE`, else `default`.
            engine_address: `host:port` of engine-svc. Default: `RUSTIC_ENGINE_ADDRESS`, else
                `engine-svc.<namespace>:50051`.
            detach_on_shutdown: Whether `shutdown` leaves the agents running. Default: `RUSTIC_DETACH_ON_SHUTDOWN`.
            runtime_profile: Python environment of the hosts in which agents run. Default: `RUSTIC_RUNTIME_PROFILE`,
                else the hosts' own.
            wait_for_any_host: Whether agents that no host could ever hold wait for larger ones, which somebody or an
                autoscaler adds, and are not refused. Default: `RUSTIC_WAIT_FOR_ANY_HOST`, else no.

        Raises:
            ValueError: An environment variable cannot be understood.
        """
        super().__init__(guild_id=guild_id, organization_id=organization_id)
        self.redis_url = redis_url
        self.agent_host_service_name = agent_host_service_name
        self._settings = EngineSettings.read(
            engine_address, k8s_namespace, detach_on_shutdown, runtime_profile, wait_for_any_host
        )

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
        """Runs an agent and returns when it has subscribed to its topics.

        Idempotent: an agent that runs with the same launch is left alone. An agent for which no host has room waits for
        some, and so does this call, up to `RUSTIC_CREATE_TIMEOUT`; the agent waits on after that. One that no host could
        ever hold is refused with `AgentTooLargeError`, unless it may wait for any host.

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
        """
        launch = agent_pb2.AgentLaunch(
            agent_spec=agent_spec.model_dump_json(),
            guild_spec=guild_spec.model_dump_json(),
            messaging_config=messaging_config.model_dump_json(),
            client_type=client_type.get_qualified_class_name(),
            client_properties=json.dumps(client_properties),
            organization_id=self.organization_id,
        )
        if self._settings.profile:
            launch.runtime.python.profile = self._settings.profile
        launch.start_timeout.FromMilliseconds(int(self._settings.create_timeout * 1000))
        request = pb.CreateAgentRequest(request_id=str(uuid.uuid4()), launch=launch, pending=self._settings.pending)
        # A little longer than the agent gets, so that the host's own words about a slow agent still reach us.
        timeout = self._settings.create_timeout + self._settings.call_timeout
        give_up = time.monotonic() + timeout
        response = self._call("CreateAgent", request, "create agent", f"{guild_spec.id}/{agent_spec.id}", timeout)
        agent = self._wait_for_running(response.agent, give_up)
        logger.info("agent %s/%s runs on %s, pid %d", agent.guild_id, agent.agent_id, agent.host, agent.pid)
        return None

    def get_agents_in_guild(self, guild_id: str) -> Dict[str, AgentSpec]:
        """The guild's agents that have a process or are about to have one, by id, as they were launched."""
        return {agent.agent_id: _spec(agent) for agent in self._list(guild_id, "")}

    def find_agents_by_name(self, guild_id: str, agent_name: str) -> List[AgentSpec]:
        """The guild's agents of this name, as they were launched."""
        return [_spec(agent) for agent in self._list(guild_id, agent_name)]

    def is_agent_running(self, guild_id: str, agent_id: str) -> bool:
        """Whether the agent is RUNNING: ready, and not stopped, restarting or failed."""
        request = pb.GetAgentRequest(guild_id=guild_id, agent_id=agent_id)
        try:
            response = self._call("GetAgent", request, "look up agent", f"{guild_id}/{agent_id}")
        except errors.K8sEngineError as error:
            if error.code == grpc.StatusCode.NOT_FOUND:
                return False
            raise
        return response.agent.phase == agent_pb2.AGENT_PHASE_RUNNING

    def stop_agent(self, guild_id: str, agent_id: str) -> None:
        """Stops an agent; returns when its process has ended. An agent that is gone already is no error."""
        request = pb.StopAgentRequest(guild_id=guild_id, agent_id=agent_id)
        try:
            self._call("StopAgent", request, "stop agent", f"{guild_id}/{agent_id}")
        except errors.K8sEngineError as error:
            if error.code != grpc.StatusCode.NOT_FOUND:
                raise
            logger.info("agent %s/%s was gone already", guild_id, agent_id)

    def shutdown(self) -> None:
        """Stops the guild's agents and waits for them, unless the engine was told to detach. Idempotent."""
        if self._settings.detach:
            logger.info("guild %s goes on without us", self.guild_id)
            return
        request = pb.StopGuildRequest(guild_id=self.guild_id)
        self._call("StopGuild", request, "stop guild", self.guild_id, timeout=self._settings.create_timeout)

    def _wait_for_running(self, agent: agent_pb2.Agent, give_up: float) -> agent_pb2.Agent:
        """Follows the agent while it waits for room or starts on its new host."""
        subject = f"{agent.guild_id}/{agent.agent_id}"
        if agent.phase in _COMING:
            agent = self._follow(agent, subject, give_up)
        if agent.phase == agent_pb2.AGENT_PHASE_FAILED:
            raise errors.failed(subject, agent.reason, self._settings.address)
        return agent

    def _follow(self, agent: agent_pb2.Agent, subject: str, give_up: float) -> agent_pb2.Agent:
        address = self._settings.address
        request = pb.WatchAgentsRequest(guild_id=agent.guild_id, agent_id=agent.agent_id)
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
                    raise errors.not_running(subject, agent.reason, address) from error
                raise errors.translate(error, "follow agent", subject, address) from error
        # It was stopped: the engine says so in its own words.
        request = pb.GetAgentRequest(guild_id=agent.guild_id, agent_id=agent.agent_id)
        return self._call("GetAgent", request, "look up agent", subject).agent

    def _list(self, guild_id: str, name: str) -> Iterator[agent_pb2.Agent]:
        request = pb.ListAgentsRequest(
            guild_id=guild_id, name=name, page_size=_PAGE, view=agent_pb2.AGENT_VIEW_FULL
        )
        while True:
            response = self._call("ListAgents", request, "list agents of guild", guild_id)
            yield from (agent for agent in response.agents if agent.phase in _ALIVE)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

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
