"""A guild with more agents than Rustic AI has machine ids. Needs a running stack."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import Cluster, wait_until
from rustic_ai.core.agents.testutils.echo_agent import EchoAgent
from rustic_ai.core.guild.agent import AgentSpec
from rustic_ai.core.guild.builders import AgentBuilder
from rustic_ai.core.guild.dsl import GuildSpec
from rustic_ai.core.messaging import AgentTag, Message, MessageConstants, MessagingConfig, Priority
from rustic_ai.core.utils import GemstoneGenerator, GemstoneID
from rustic_ai.k8s.execution import K8sExecutionEngine

_AGENTS = 300
_QUESTIONS = 5
# Machine ids that rusticai-core accepts of agents.
_MACHINES = 255


def _spec(number: int) -> AgentSpec:
    """One that hears questions only, and not what the others answer."""
    builder = AgentBuilder(EchoAgent).set_id(f"a{number}").set_name(f"A{number}").set_description("Echoes")
    return builder.listen_to_default_topic(False).add_additional_topic("questions").build_spec()


def test_three_hundred_agents_of_a_guild_make_no_message_id_twice(
    cluster: Cluster, guild_id: str, org_id: str, messaging: MessagingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All answer the same questions at the same time, in their first life and some of them in their second."""
    monkeypatch.setenv("RUSTIC_ENGINE_ADDRESS", cluster.address)
    cluster.add_host("large", room=_AGENTS)
    engine = K8sExecutionEngine(guild_id, org_id)
    wait_until("the host", lambda: any(host.state == "READY" for host in engine.hosts()))
    guild = GuildSpec(id=guild_id, name="Crowd", description="A large guild")
    bus = messaging.get_storage()
    try:
        with ThreadPoolExecutor(4) as launching:
            launched = [
                launching.submit(engine.run_agent, guild, _spec(number), messaging, number) for number in range(_AGENTS)
            ]
        for launch in launched:
            launch.result()
        engine.wait_until_running(*(f"a{number}" for number in range(_AGENTS)))
        ids = GemstoneGenerator(0)

        def answers() -> list[Message]:
            return bus.get_messages_for_topic(f"{guild_id}:default_topic")

        for asked in range(_QUESTIONS):
            if asked == _QUESTIONS - 1:
                for number in range(_MACHINES, _MACHINES + 10):
                    engine.restart(f"a{number}")
            question = Message(
                id_obj=ids.get_id(Priority.NORMAL),
                topics="questions",
                topic_published_to="questions",
                sender=AgentTag(id="asks", name="asks"),
                format=MessageConstants.RAW_JSON_FORMAT,
                payload={"question": asked},
            )
            bus.store_message(guild_id, f"{guild_id}:questions", question)
            wait_until("all to answer", lambda: len({(m.sender.id, m.payload["question"]) for m in answers()}) == _AGENTS * (asked + 1))
        said = answers()
        assert len({message.id for message in said}) == len(said) == _AGENTS * _QUESTIONS
        machines = {message.sender.id: GemstoneID.from_int(message.id).machine_id for message in said}
        assert len(set(machines.values())) == _MACHINES, "the rest of them share"
    finally:
        engine.shutdown()
        bus.cleanup()
