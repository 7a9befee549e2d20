"""Launches: what they carry, when they return, and what becomes of those that fail. Needs a running stack."""

from collections.abc import Callable, Iterator
import contextlib
from dataclasses import dataclass
import json
import logging
import os
from pathlib import Path

import pytest
import redis

from conftest import Cluster, Probe, wait_until
from rustic_ai.agent.v1 import agent_pb2
from rustic_ai.core.agents.testutils.echo_agent import EchoAgent
from rustic_ai.core.guild.agent import AgentSpec
from rustic_ai.core.guild.agent_ext.mixins.health import HealthConstants
from rustic_ai.core.guild.builders import AgentBuilder, GuildBuilder
from rustic_ai.core.guild.dsl import GuildSpec
from rustic_ai.core.guild.guild import Guild
from rustic_ai.core.guild.metastore import Metastore
from rustic_ai.core.messaging import MessagingConfig
from rustic_ai.k8s import client, errors
from rustic_ai.k8s.execution import K8sExecutionEngine

from rustic_ai.engine.v1 import engine_service_pb2 as pb

ENGINE = "rustic_ai.k8s.K8sExecutionEngine"


def echo(agent_id: str) -> AgentSpec:
    """Spec of an agent that answers."""
    return (
        AgentBuilder(EchoAgent)
        .set_id(agent_id)
        .set_name(agent_id.title())
        .set_description("Echoes")
        .add_additional_topic(HealthConstants.HEARTBEAT_TOPIC)
        .build_spec()
    )


def misspelt(agent_id: str) -> AgentSpec:
    """Spec of an agent whose class nobody has."""
    return AgentSpec(id=agent_id, name="Bad", description="Bad", class_name="no_such_package.Agent")


def run(engine: K8sExecutionEngine, agent: AgentSpec, messaging: MessagingConfig, **options) -> None:
    """Runs an agent in the engine's guild."""
    guild = GuildSpec(id=engine.guild_id, name="Test", description="A test guild")
    engine.run_agent(guild, agent, messaging, machine_id=1, **options)


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch, messaging: MessagingConfig) -> None:
    """Everything is configured in the environment of this client, and nowhere else."""
    monkeypatch.setenv("RUSTIC_AI_EXECUTION_ENGINE", ENGINE)
    monkeypatch.setenv("RUSTIC_AI_MESSAGING_MODULE", messaging.backend_module)
    monkeypatch.setenv("RUSTIC_AI_MESSAGING_CLASS", messaging.backend_class)
    monkeypatch.setenv("RUSTIC_AI_MESSAGING_BACKEND_CONFIG", json.dumps(messaging.backend_config))


@dataclass
class Managed:
    """A guild of which only the manager was launched from here, and how its agents are."""

    guild: Guild
    engine: K8sExecutionEngine

    def phases(self) -> dict[str, str]:
        """Phase of each agent, by id, but the manager's."""
        stub = client.stub(self.engine.engine_address)
        request = pb.ListAgentsRequest(organization_id=self.engine.organization_id, guild_id=self.guild.id)
        agents = stub.ListAgents(request).agents
        name = agent_pb2.AgentPhase.Name
        return {
            agent.agent_id: name(agent.phase).removeprefix("AGENT_PHASE_")
            for agent in agents
            if not agent.agent_id.endswith("#manager_agent")
        }


@pytest.fixture
def manage(guild_id: str, org_id: str, tmp_path: Path) -> Iterator[Callable[..., Managed]]:
    """Bootstraps guilds that say nothing of engine and messages."""
    # One process has one metastore: an earlier test may have left its own.
    Metastore.drop_db(unsafe=True)
    with contextlib.ExitStack() as ends:
        ends.callback(Metastore.drop_db, unsafe=True)

        def bootstrap(*agents: AgentSpec) -> Managed:
            builder = GuildBuilder(guild_id, "Managed", "A guild with a manager")
            for agent in agents:
                builder.add_agent_spec(agent)
            database = f"sqlite:///{tmp_path}/metastore.db"
            Metastore.initialize_engine(database)
            guild = builder.bootstrap(database, org_id)
            engine = guild._get_execution_engine()
            ends.callback(engine.shutdown)
            return Managed(guild, engine)

        yield bootstrap


def test_a_guild_whose_client_alone_is_configured_runs_on_this_engine(
    configured: None, manage: Callable[..., Managed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manager launches its agents as the client would: in processes of their own, which answer."""
    monkeypatch.setenv("RUSTIC_RUNTIME_PROFILE", "default")
    managed = manage(echo("one"), echo("two"))
    wait_until("both to run", lambda: managed.phases() == {"one": "RUNNING", "two": "RUNNING"})
    pids = {managed.engine.describe(agent).pid for agent in ("one", "two", f"{managed.guild.id}#manager_agent")}
    assert len(pids) == 3
    # The second life of the manager launches in the same way.
    managed.engine.stop_agent(managed.guild.id, "two")
    managed.engine.restart(f"{managed.guild.id}#manager_agent")
    wait_until("it to be launched again", lambda: managed.phases() == {"one": "RUNNING", "two": "RUNNING"})


def test_a_bad_agent_and_those_that_find_no_room_hold_up_nobody(
    configured: None, cluster: Cluster, manage: Callable[..., Managed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad agent first, room for two of four, and a host that comes later: all four run, and the guild knows of the bad one."""
    monkeypatch.setenv("RUSTIC_ENGINE_ADDRESS", cluster.address)
    cluster.add_host("first", room=3)
    wait_until("the host", lambda: any(h.state == "READY" for h in K8sExecutionEngine("any", "any").hosts()))
    # Room for the manager and two more.
    managed = manage(misspelt("bad"), *map(echo, "abcd"))
    some = ["FAILED", "PENDING", "PENDING", "RUNNING", "RUNNING"]
    wait_until("two of four to run", lambda: sorted(managed.phases().values()) == some)
    assert managed.phases()["bad"] == "FAILED"
    cluster.add_host("second", room=3)
    everybody = {"bad": "FAILED", **dict.fromkeys("abcd", "RUNNING")}
    wait_until("all four to run", lambda: managed.phases() == everybody)
    _is_reported(managed.guild, "bad", "no_such_package")


def _is_reported(guild: Guild, agent_id: str, reason: str) -> None:
    probe = Probe(guild)

    def reported() -> bool:
        health = [agents[agent_id] for agents in probe.reports() if agent_id in agents]
        return any(h["checkstatus"] == "error" and reason in h["checkmeta"].get("reason", "") for h in health)

    try:
        wait_until("the guild's health to show it", reported)
    finally:
        probe.close()


def test_a_launch_that_fails_later_is_logged_by_whoever_launched_it(
    engine: K8sExecutionEngine, messaging: MessagingConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be known at once: a bus that is not there. The agent is tried again, and in the end the log says why."""
    caplog.set_level(logging.INFO, "rustic_ai.k8s.launches")
    broken = messaging.model_copy(update={"backend_class": "NoSuchBackend"})
    run(engine, echo("a"), broken)
    wait_until("it to be tried again", lambda: engine.describe("a").phase == "RESTARTING")
    assert not engine.is_agent_running(engine.guild_id, "a")
    with pytest.raises(errors.AgentTimeoutError, match="NoSuchBackend") as caught:
        engine.wait_until_running("a", timeout=0.5)
    late = caught.value
    assert (late.reason, late.phase, late.agent_reason) == ("NOT_READY", "RESTARTING", "InitializationFailed")
    engine.stop_agent(engine.guild_id, "a")
    # The second life, for which the first one's trouble is not logged.
    run(engine, echo("a"), messaging)
    engine.wait_until_running("a")
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_what_is_certainly_wrong_is_raised_at_once_and_can_be_mended(
    engine: K8sExecutionEngine, messaging: MessagingConfig
) -> None:
    """The error names the class; the same id can be launched with the right one."""
    with pytest.raises(errors.InvalidAgentError, match="no_such_package"):
        run(engine, misspelt("a"), messaging)
    description = engine.describe("a")
    assert (description.phase, description.reason) == ("FAILED", "LaunchInvalid")
    assert "no_such_package" in description.message
    with pytest.raises(errors.AgentStartError, match="no_such_package") as caught:
        engine.wait_until_running("a")
    failed = caught.value
    assert (failed.reason, failed.phase, failed.agent_reason) == ("AGENT_FAILED", "FAILED", "LaunchInvalid")
    run(engine, echo("a"), messaging)
    engine.wait_until_running("a")
    assert engine.is_agent_running(engine.guild_id, "a")


def test_what_cannot_leave_this_process_is_named(engine: K8sExecutionEngine, messaging: MessagingConfig) -> None:
    """Live objects and messages that stay in one process: refused before anything is sent."""
    live = messaging.model_copy(update={"backend_config": {"redis_client": redis.Redis()}})
    with pytest.raises(errors.InvalidAgentError, match="messaging_config cannot be sent") as caught:
        run(engine, echo("a"), live)
    assert list(caught.value.fields) == ["launch.messaging_config"]
    with pytest.raises(errors.InvalidAgentError, match="client_properties cannot be sent"):
        run(engine, echo("a"), messaging, client_properties={"lock": object()})
    alone = MessagingConfig(
        backend_module="rustic_ai.core.messaging.backend", backend_class="InMemoryMessagingBackend", backend_config={}
    )
    with pytest.raises(errors.InvalidAgentError, match="RedisMessagingBackend of rusticai-redis"):
        run(engine, echo("a"), alone)
    assert engine.get_agents_in_guild(engine.guild_id) == {}


def test_a_manager_whose_database_is_a_file_of_its_callers_own_directory_is_refused(
    configured: None, guild_id: str, org_id: str
) -> None:
    """Before anything is launched: on its host the manager would find an empty file."""
    builder = GuildBuilder(guild_id, "Managed", "A guild with a manager").add_agent_spec(echo("one"))
    with pytest.raises(errors.InvalidAgentError, match="relative to a working directory") as caught:
        builder.bootstrap("sqlite:///rustic_app.db", org_id)
    assert list(caught.value.fields) == ["launch.agent_spec.properties.database_url"]
    assert K8sExecutionEngine(guild_id, org_id).get_agents_in_guild(guild_id) == {}


def test_organizations_with_one_guild_id_are_apart(
    guild_id: str, messaging: MessagingConfig, redis_url: str
) -> None:
    """Neither lists, skips, or stops the other's agents; on one bus the second one is refused."""
    ours, theirs = (K8sExecutionEngine(guild_id, organization) for organization in ("ours", "theirs"))
    # Another name of the same server: this test's bus is one, and whoever configures them says that they are two.
    config = {"redis_client": {**messaging.backend_config["redis_client"], "host": "localhost"}}
    other_bus = messaging.model_copy(update={"backend_config": config})
    try:
        run(ours, echo("x"), messaging)
        with pytest.raises(errors.AgentConflictError, match="another organization has a guild"):
            run(theirs, echo("x"), messaging)
        run(theirs, echo("x"), other_bus)
        run(theirs, echo("y"), other_bus)
        ours.wait_until_running("x")
        theirs.wait_until_running("x", "y")
        assert ours.get_agents_in_guild(guild_id).keys() == {"x"}
        assert theirs.get_agents_in_guild(guild_id).keys() == {"x", "y"}
        assert ours.describe("x").pid != theirs.describe("x").pid
        with pytest.raises(errors.AgentUnknownError):
            ours.describe("y")
        theirs.shutdown()
        assert ours.is_agent_running(guild_id, "x")
        assert theirs.get_agents_in_guild(guild_id) == {}
    finally:
        ours.shutdown()
        theirs.shutdown()


def test_agents_and_hosts_are_described(engine: K8sExecutionEngine, messaging: MessagingConfig) -> None:
    """As dataclasses, with the words of the documentation; a restart is another process under a later claim."""
    run(engine, echo("a"), messaging)
    engine.wait_until_running("a")
    before = engine.describe("a")
    assert (before.phase, before.machine_id, before.organization_id) == ("RUNNING", 1, engine.organization_id)
    assert before.spec == echo("a") and before.running_since is not None and before.created is not None
    assert before.host_id in {host.host_id for host in engine.hosts() if host.state == "READY"}
    engine.restart("a")
    after = engine.describe("a")
    assert after.phase == "RUNNING" and after.pid != before.pid and after.epoch > before.epoch


def test_an_engine_comes_from_the_environment_of_an_agent(
    monkeypatch: pytest.MonkeyPatch, guild_id: str, org_id: str
) -> None:
    """Or says what is missing."""
    for name in ("RUSTIC_AGENT_GUILD_ID", "RUSTIC_AGENT_ORGANIZATION_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="RUSTIC_AGENT_GUILD_ID and RUSTIC_AGENT_ORGANIZATION_ID"):
        K8sExecutionEngine.from_env()
    monkeypatch.setenv("RUSTIC_AGENT_GUILD_ID", guild_id)
    monkeypatch.setenv("RUSTIC_AGENT_ORGANIZATION_ID", org_id)
    engine = K8sExecutionEngine.from_env(engine_address=os.environ["RUSTIC_ENGINE_ADDRESS"])
    assert (engine.guild_id, engine.organization_id) == (guild_id, org_id)
    assert K8sExecutionEngine.from_env("another").guild_id == "another"
