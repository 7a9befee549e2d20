"""Lives of an agent whose package only the hosts have: created by its class's name, talked to, stopped."""

from collections.abc import Callable, Iterator
import contextlib
import os
import time
from typing import Any
import uuid

import grpc

from rustic_ai.agent_host.v1 import agent_host_service_pb2 as host_pb
from rustic_ai.agent_host.v1.agent_host_service_pb2_grpc import AgentHostServiceStub
from rustic_ai.core.agents.testutils.probe_agent import ProbeAgent
from rustic_ai.core.guild.agent import AgentSpec
from rustic_ai.core.guild.agent_ext.depends.dependency_resolver import DependencySpec
from rustic_ai.core.guild.builders import AgentBuilder
from rustic_ai.core.guild.dsl import GuildSpec
from rustic_ai.core.guild.execution.sync.sync_exec_engine import SyncExecutionEngine
from rustic_ai.core.guild.guild import Guild
from rustic_ai.core.messaging import Message, MessagingConfig
from rustic_ai.engine.v1 import engine_service_pb2 as pb
from rustic_ai.k8s import client
from rustic_ai.k8s.execution import K8sExecutionEngine

PROFILE = "agents"
# A first answer may take a package's late imports, while another agent of this machine starts.
PATIENCE = 60.0
# A proof of all that a large package imports goes on for minutes, behind everything else on the machine.
LEARNING_PATIENCE = 600.0


class Conversation:
    """A guild of one agent and of a probe in this process.

    Attributes:
        agent_id: Id of the agent.
    """

    def __init__(self, guild: Guild, probe: ProbeAgent, agent_id: str) -> None:
        self._guild, self._probe, self.agent_id = guild, probe, agent_id

    def ask(self, question: str, payload: dict[str, Any], answer: str) -> dict[str, Any]:
        """Sends a message and waits for the agent's answer; an answer of another kind is an error.

        Args:
            question: Format of the message: the name of a class that the agent handles.
            payload: Its contents.
            answer: Format of the answer.

        Returns:
            Contents of the answer.
        """
        (payload,) = self.ask_for_all(question, payload, answer, lambda answers: len(answers) == 1)
        return payload

    def ask_for_all(
        self, question: str, payload: dict[str, Any], answer: str, enough: Callable[[list[dict[str, Any]]], bool]
    ) -> list[dict[str, Any]]:
        """As `ask`, for questions with several answers.

        Args:
            question: Format of the message.
            payload: Its contents.
            answer: Format of the answers that are wanted; others than these and errors are left out.
            enough: Whether these are all.
        """
        asked = self._probe.publish_dict(Guild.DEFAULT_TOPIC, payload, question).to_int()

        def answers() -> list[dict[str, Any]]:
            heard = [message for message in list(self._probe.received_messages) if self._answers(message, asked)]
            errors = [message for message in heard if message.is_error_message or message.format.endswith("Error")]
            assert not errors, errors
            return [message.payload for message in heard if message.format == answer]

        _wait(f"{answer} of {self.agent_id}", lambda: enough(answers()), answers, PATIENCE)
        return answers()

    def _answers(self, message: Message, question: int) -> bool:
        return message.sender.id == self.agent_id and question in (message.in_response_to, *message.thread)


class Stage:
    """A stack of one host, and the guild that these tests have on it.

    Attributes:
        engine: Runs agents in the runtime profile that has the packages.
        dependencies: What the guild offers its agents, by name.
    """

    def __init__(self, engine: K8sExecutionEngine, messaging: MessagingConfig) -> None:
        self.engine, self._messaging = engine, messaging
        self.dependencies: dict[str, DependencySpec] = {}
        (host,) = client.stub(engine.engine_address).ListHosts(pb.ListHostsRequest()).hosts
        self._host = AgentHostServiceStub(grpc.insecure_channel(host.address))

    def offer(self, name: str, class_name: str, **properties: Any) -> None:
        """Adds a dependency that agents of the guild may ask for."""
        self.dependencies[name] = DependencySpec(class_name=class_name, properties=properties)

    @contextlib.contextmanager
    def life(self, class_name: str, properties: dict[str, Any]) -> Iterator[Conversation]:
        """One agent, from its creation to its stop, under an id of its own.

        Args:
            class_name: The agent's class, which this process cannot import.
            properties: Its properties.
        """
        agent_id = f"agent-{uuid.uuid4().hex[:8]}"
        spec = AgentSpec(
            id=agent_id, name="Agent", description="Of a package", class_name=class_name, properties=properties
        )
        guild_id, organization = self.engine.guild_id, self.engine.organization_id
        guild = Guild(guild_id, "Packages", "Agents of packages", organization, _ENGINE, self._messaging)
        guild.dependency_map = dict(self.dependencies)
        described = GuildSpec(
            id=guild_id, name="Packages", description="Agents of packages", dependency_map=self.dependencies
        )
        self.engine.run_agent(described, spec, self._messaging, machine_id=1)
        local = SyncExecutionEngine(guild_id=guild_id, organization_id=organization)
        probe = (
            AgentBuilder(ProbeAgent).set_id(f"probe-{agent_id}").set_name("Probe").set_description("Asks").build_spec()
        )
        try:
            yield Conversation(guild, guild._add_local_agent(probe, local), agent_id)
        finally:
            local.shutdown()
            self.engine.stop_agent(guild_id, agent_id)
        assert not self.engine.is_agent_running(guild_id, agent_id)

    @property
    def cold_starts(self) -> int:
        """How many agents of the profile were started in a fresh interpreter because they could not be forked."""
        return self._profile().cold_starts

    def learn(self, class_name: str) -> None:
        """Waits until the host knows what agents of a class may share, if `make test-agents-learned` asks for that.

        Otherwise the next life is forked from what the host has learned by then, which is nothing as a rule.
        """
        if not os.environ.get("RUSTIC_TEST_LEARNED"):
            return
        module = class_name.rpartition(".")[0]

        def found() -> bool:
            profile = self._profile()
            shared = {package for branch in profile.branches for package in branch.packages}
            return module in profile.not_shared or not shared.isdisjoint({module, module.rpartition(".")[0]})

        _wait(f"what is shared of {module}", found, lambda: set(self._profile().not_shared), LEARNING_PATIENCE)

    def _profile(self) -> host_pb.RuntimeProfile:
        profiles = self._host.Health(host_pb.HealthRequest()).profiles
        return next(profile for profile in profiles if profile.name == PROFILE)


_ENGINE = "rustic_ai.k8s.execution.K8sExecutionEngine"


def _wait(what: str, done: Callable[[], bool], seen: Callable[[], Any], patience: float) -> None:
    give_up = time.monotonic() + patience
    while not done():
        assert time.monotonic() < give_up, f"waited for {what}, last saw {seen()!r}"
        time.sleep(0.05)
