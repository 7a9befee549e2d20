"""A guild with more agents than Rustic AI has machine ids. Needs a running stack."""

from concurrent.futures import ThreadPoolExecutor
import json

import pytest

from conftest import Cluster, wait_until
from rustic_ai.agent.v1 import agent_pb2
from rustic_ai.core.agents.testutils.echo_agent import EchoAgent
from rustic_ai.core.guild.agent import AgentSpec
from rustic_ai.core.guild.builders import AgentBuilder
from rustic_ai.core.guild.dsl import GuildSpec
from rustic_ai.core.messaging import AgentTag, Message, MessageConstants, MessagingConfig, Priority
from rustic_ai.core.utils import GemstoneGenerator, GemstoneID
from rustic_ai.engine.v1 import engine_service_pb2 as pb
from rustic_ai.k8s import client
from rustic_ai.k8s.execution import K8sExecutionEngine

# Machine ids that rusticai-core accepts of agents; agents that have the same ones later; and what is asked of them.
_MACHINES, _PAIRS, _QUESTIONS = 255, 20, 10


def _spec(agent_id: str) -> AgentSpec:
    """One that is asked on a topic of its own, where it answers: nobody echoes the echo."""
    builder = AgentBuilder(EchoAgent).set_id(agent_id).set_name(agent_id).set_description("Echoes")
    return builder.listen_to_default_topic(False).add_additional_topic(f"to-{agent_id}").build_spec()


def _silent(organization_id: str, guild_id: str, agent_id: str) -> pb.CreateAgentRequest:
    """One that is no more than a number in its guild: every agent of Rustic AI hears of all others, which takes N² steps."""
    launch = agent_pb2.AgentLaunch(
        agent_spec=json.dumps({"id": agent_id, "name": agent_id}),
        guild_spec=json.dumps({"id": guild_id}),
        organization_id=organization_id,
    )
    launch.runtime.command.argv.extend(["sleep", "infinity"])
    return pb.CreateAgentRequest(launch=launch)


def test_three_hundred_agents_of_a_guild_make_no_message_id_twice(
    cluster: Cluster, guild_id: str, org_id: str, messaging: MessagingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs that have one machine id answer the same questions at the same time, in their first life and in their second."""
    monkeypatch.setenv("RUSTIC_ENGINE_ADDRESS", cluster.address)
    cluster.add_host("large", room=_MACHINES + 2 * _PAIRS + 5)
    engine = K8sExecutionEngine(guild_id, org_id)
    wait_until("the host", lambda: any(host.state == "READY" for host in engine.hosts()))
    guild, stub = GuildSpec(id=guild_id, name="Crowd", description="A large guild"), client.stub(cluster.address)
    first, second = ([f"{which}{number}" for number in range(_PAIRS)] for which in ("first-", "second-"))
    bus, ids = messaging.get_storage(), GemstoneGenerator(0)

    def answers() -> list[Message]:
        heard = (bus.get_messages_for_topic(f"{guild_id}:to-{agent_id}") for agent_id in (*first, *second))
        return [message for said in heard for message in said if message.sender.id != "asks"]

    def ask(number: int) -> None:
        for agent_id in (*first, *second):
            topic = f"to-{agent_id}"
            question = Message(
                id_obj=ids.get_id(Priority.NORMAL),
                topics=topic,
                topic_published_to=topic,
                sender=AgentTag(id="asks", name="asks"),
                format=MessageConstants.RAW_JSON_FORMAT,
                payload={"question": number},
            )
            bus.store_message(guild_id, f"{guild_id}:{topic}", question)

    try:
        for agent_id in first:
            engine.run_agent(guild, _spec(agent_id), messaging, 1)
        with ThreadPoolExecutor(4) as launching:
            silent = (_silent(org_id, guild_id, f"silent-{number}") for number in range(_MACHINES - _PAIRS))
            list(launching.map(stub.CreateAgent, silent))
        for agent_id in second:
            engine.run_agent(guild, _spec(agent_id), messaging, 1)
        engine.wait_until_running(*first, *second)
        for asked in range(_QUESTIONS):
            if asked == _QUESTIONS // 2:
                for agent_id in second:
                    engine.restart(agent_id)
            ask(asked)
        wait_until("all to answer", lambda: len(answers()) >= 2 * _PAIRS * _QUESTIONS)
        said = answers()
        assert len({message.id for message in said}) == len(said) == 2 * _PAIRS * _QUESTIONS
        machines = {message.sender.id: GemstoneID.from_int(message.id).machine_id for message in said}
        assert [machines[agent_id] for agent_id in first] == [machines[agent_id] for agent_id in second]
        assert engine.describe("second-0").machine_id > _MACHINES
    finally:
        engine.shutdown()
        bus.cleanup()
