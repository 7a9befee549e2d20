"""K8sExecutionEngine against a running stack: the interface, and what it raises."""

import os
import signal

import grpc
import pytest

from conftest import wait_until
from rustic_ai.core.guild.agent import AgentSpec
from rustic_ai.core.guild.builders import AgentBuilder
from rustic_ai.core.guild.dsl import GuildSpec, ResourceSpec
from rustic_ai.core.guild.guild import Guild
from rustic_ai.core.messaging import Client, MessageTrackingClient, MessagingConfig, SimpleClient
from rustic_ai.k8s import client, errors
from rustic_ai.k8s.execution import K8sExecutionEngine
from rustic_ai.testing.execution.integration_agents import ResponderProbeAgent

from rustic_ai.engine.v1 import engine_service_pb2 as pb


def spec(agent_id: str, name: str = "Responder") -> AgentSpec:
    """Spec of an agent that answers."""
    builder = AgentBuilder(ResponderProbeAgent).set_id(agent_id).set_name(name).set_description("Answers")
    return builder.build_spec()


def run(engine: K8sExecutionEngine, agent: AgentSpec, messaging: MessagingConfig, **options) -> None:
    """Runs an agent in the engine's guild."""
    guild = GuildSpec(id=engine.guild_id, name="Test", description="A test guild")
    engine.run_agent(guild, agent, messaging, machine_id=1, **options)
    engine.wait_until_running(agent.id)


def test_specs_come_back_field_for_field(engine: K8sExecutionEngine, messaging: MessagingConfig) -> None:
    """What the lists return is what was launched."""
    rich = spec("rich", "Rich")
    rich.additional_topics = ["news", "weather"]
    rich.resources = ResourceSpec(num_cpus=0.25)
    rich.act_only_when_tagged = True
    run(engine, rich, messaging, client_type=MessageTrackingClient)
    run(engine, spec("plain", "Plain"), messaging)
    agents = engine.get_agents_in_guild(engine.guild_id)
    assert agents.keys() == {"rich", "plain"}
    assert agents["rich"].model_dump() == rich.model_dump()
    assert [a.id for a in engine.find_agents_by_name(engine.guild_id, "Plain")] == ["plain"]
    assert engine.find_agents_by_name(engine.guild_id, "plain") == []


def test_running_follows_the_process(engine: K8sExecutionEngine, messaging: MessagingConfig) -> None:
    """False before, true while RUNNING, false once stopped; stopping twice is no error."""
    assert engine.is_agent_running(engine.guild_id, "a") is False
    run(engine, spec("a"), messaging)
    assert engine.is_agent_running(engine.guild_id, "a") is True
    run(engine, spec("a"), messaging)
    engine.stop_agent(engine.guild_id, "a")
    assert engine.is_agent_running(engine.guild_id, "a") is False
    engine.stop_agent(engine.guild_id, "a")
    assert engine.get_agents_in_guild(engine.guild_id) == {}


def test_a_killed_rustic_agent_comes_back(engine: K8sExecutionEngine, messaging: MessagingConfig) -> None:
    """The process is killed; the agent runs again with the same id."""
    run(engine, spec("a"), messaging)
    stub = client.stub(engine.engine_address)

    def look() -> object:
        return stub.GetAgent(pb.GetAgentRequest(organization_id=engine.organization_id, guild_id=engine.guild_id, agent_id="a")).agent

    before = look()
    os.kill(before.pid, signal.SIGKILL)
    wait_until("the restart", lambda: look().restarts == 1 and engine.is_agent_running(engine.guild_id, "a"))
    assert look().pid != before.pid


def test_a_second_launch_with_another_spec_is_refused(engine: K8sExecutionEngine, messaging: MessagingConfig) -> None:
    """The first agent is left alone."""
    run(engine, spec("a"), messaging)
    with pytest.raises(errors.AgentConflictError, match=f"{engine.guild_id}/a") as caught:
        run(engine, spec("a", "Another name"), messaging)
    assert caught.value.reason == "AGENT_HAS_OTHER_SPEC"
    assert engine.find_agents_by_name(engine.guild_id, "Responder")


def test_an_unknown_client_type_is_an_error(engine: K8sExecutionEngine, messaging: MessagingConfig) -> None:
    """A client that Rustic AI does not export is no reason to fall back to another one."""

    class HomeMade(SimpleClient):
        pass

    with pytest.raises(errors.InvalidAgentError, match="unknown client type") as caught:
        run(engine, spec("a"), messaging, client_type=HomeMade)
    assert list(caught.value.fields) == ["launch.client_type"]
    assert issubclass(HomeMade, Client)
    assert engine.get_agents_in_guild(engine.guild_id) == {}


def test_a_runtime_profile_that_no_host_has_is_an_error(
    engine: K8sExecutionEngine, messaging: MessagingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The profile comes from the environment, where a guild cannot pass it; the error names those that there are."""
    monkeypatch.setenv("RUSTIC_RUNTIME_PROFILE", "vision")
    elsewhere = K8sExecutionEngine(engine.guild_id, engine.organization_id)
    with pytest.raises(errors.InvalidAgentError, match="no runtime profile vision, but default") as caught:
        run(elsewhere, spec("a"), messaging)
    assert list(caught.value.fields) == ["launch.runtime.python.profile"]


def test_a_placement_reaches_every_agent_and_those_that_they_launch(
    engine: K8sExecutionEngine, messaging: MessagingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is part of the launch, so another one is another launch; a label that no host has is named; what is none is told."""
    placed = K8sExecutionEngine(engine.guild_id, engine.organization_id, placement={"movable": True})
    run(placed, spec("a"), messaging)
    with pytest.raises(errors.AgentConflictError):
        run(engine, spec("a"), messaging)
    nowhere = K8sExecutionEngine(
        engine.guild_id, engine.organization_id, placement={"required_labels": {"zone": "nowhere"}}
    )
    with pytest.raises(errors.AgentTooLargeError, match="the label zone=nowhere, which no host has"):
        run(nowhere, spec("b"), messaging)
    # As an agent finds it that launches others.
    monkeypatch.setenv("RUSTIC_PLACEMENT", '{"requiredLabels": {"zone": "elsewhere"}}')
    inherits = K8sExecutionEngine(engine.guild_id, engine.organization_id)
    with pytest.raises(errors.AgentTooLargeError, match="zone=elsewhere"):
        run(inherits, spec("c"), messaging)
    monkeypatch.setenv("RUSTIC_PLACEMENT", '{"zone": "a"}')
    with pytest.raises(ValueError, match="RUSTIC_PLACEMENT.*no field named.*zone"):
        K8sExecutionEngine(engine.guild_id, engine.organization_id)


def test_an_agents_own_error_comes_back_with_its_traceback(
    engine: K8sExecutionEngine, messaging: MessagingConfig
) -> None:
    """What the agent raised is what its author reads, with agent and host."""
    broken = messaging.model_copy(update={"backend_class": "NoSuchBackend"})
    waiting = K8sExecutionEngine(engine.guild_id, engine.organization_id, wait_until_running=True)
    with pytest.raises(errors.AgentStartError) as caught:
        run(waiting, spec("a"), broken)
    error = caught.value
    assert "NoSuchBackend" in str(error) and f"{engine.guild_id}/a" in str(error) and "agent-host-" in str(error)
    assert "Traceback" in error.traceback and error.reason == "AGENT_INIT_FAILED"


def test_shutdown_stops_the_guild_and_detach_leaves_it(
    guild_id: str, org_id: str, messaging: MessagingConfig, engine: K8sExecutionEngine
) -> None:
    """Detached engines leave their agents; others stop theirs, all of them and no others."""
    detached = K8sExecutionEngine(guild_id, org_id, detach_on_shutdown=True)
    run(detached, spec("a"), messaging)
    detached.shutdown()
    assert engine.is_agent_running(guild_id, "a")
    other = K8sExecutionEngine(f"{guild_id}-other", org_id)
    other.shutdown()
    assert engine.is_agent_running(guild_id, "a")
    engine.shutdown()
    assert not engine.is_agent_running(guild_id, "a")


def test_guild_needs_nothing_but_the_class_name(
    guild_id: str, org_id: str, messaging: MessagingConfig
) -> None:
    """Guild constructs the engine with two arguments; the rest comes from the environment."""
    guild = Guild(guild_id, "G", "d", org_id, "rustic_ai.k8s.execution.K8sExecutionEngine", messaging)
    try:
        guild.launch_agent(spec("a"))
        guild._get_execution_engine().wait_until_running("a")
        assert guild.is_agent_running("a") and [a.id for a in guild.list_all_running_agents()] == ["a"]
        guild.remove_agent("a")
        assert not guild.is_agent_running("a")
    finally:
        guild.shutdown()


def test_machine_ids_never_pass_what_rustic_ai_accepts(
    engine: K8sExecutionEngine, messaging: MessagingConfig
) -> None:
    """Guild counts launches upwards without end; the agent still gets a machine id below 256."""
    guild = GuildSpec(id=engine.guild_id, name="Test", description="A test guild")
    engine.run_agent(guild, spec("a"), messaging, machine_id=100_000)
    engine.wait_until_running("a")
    assert engine.is_agent_running(engine.guild_id, "a")


def test_an_engine_that_is_not_there_is_named(guild_id: str, org_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which address did not answer."""
    monkeypatch.setenv("RUSTIC_CALL_TIMEOUT", "1")
    engine = K8sExecutionEngine(guild_id, org_id, engine_address="127.0.0.1:1")
    with pytest.raises(errors.EngineUnavailableError, match="127.0.0.1:1") as caught:
        engine.is_agent_running(guild_id, "a")
    assert caught.value.code == grpc.StatusCode.UNAVAILABLE
