"""What Rustic AI does with an execution engine: guilds by builder, YAML and manager, state, health, guild to guild.

Specs name neither engine nor bus: both come from the client's environment, as in an API server. `RUSTIC_TEST_ENGINE`
names another engine, to compare; `framework_table.py` runs all of them. `make test-python` runs ours, the default.
"""

from collections.abc import Callable, Iterator
import contextlib
import json
import os
from pathlib import Path
import sqlite3
import time
from typing import Any
from urllib.parse import urlparse
import uuid

from pydantic import BaseModel
import pytest
from sqlmodel import SQLModel, create_engine
import yaml

from conftest import wait_until
from rustic_ai.core.agents.system.models import (
    AgentLaunchRequest,
    AgentLaunchResponse,
    AgentRemovalResponse,
    RemoveAgentRequest,
    StopGuildRequest,
)
from rustic_ai.core.agents.testutils.echo_agent import EchoAgent
from rustic_ai.core.agents.testutils.probe_agent import EssentialProbeAgent
from rustic_ai.core.guild.agent import AgentSpec
from rustic_ai.core.guild.agent_ext.mixins.health import (
    AgentsHealthReport,
    HealthCheckRequest,
    HealthConstants,
    Heartbeat,
)
from rustic_ai.core.guild.builders import AgentBuilder, GuildBuilder, GuildHelper
from rustic_ai.core.guild.dsl import GatewayConfig, GuildTopics
from rustic_ai.core.guild.execution.sync.sync_exec_engine import SyncExecutionEngine
from rustic_ai.core.guild.g2g.envoy_agent import EnvoyAgent
from rustic_ai.core.guild.guild import Guild
from rustic_ai.core.guild.metastore import Metastore
from rustic_ai.core.messaging import Message
from rustic_ai.core.messaging.core.message import MessageConstants
from rustic_ai.core.state.models import (
    StateFetchRequest,
    StateFetchResponse,
    StateOwner,
    StateUpdateRequest,
    StateUpdateResponse,
)
from rustic_ai.core.utils.basic_class_utils import get_qualified_class_name

ORGANIZATION = "test-org"
_EXECUTION = "rustic_ai.core.guild.execution"
ENGINES = {
    "sync": f"{_EXECUTION}.sync.sync_exec_engine.SyncExecutionEngine",
    "multiprocess": f"{_EXECUTION}.multiprocess.multiprocess_exec_engine.MultiProcessExecutionEngine",
    "ray": "rustic_ai.ray.RayExecutionEngine",
    "k8s": "rustic_ai.k8s.execution.K8sExecutionEngine",
}
ENGINE = os.environ.get("RUSTIC_TEST_ENGINE", "k8s")
# Topic of questions that leave the guild.
ABROAD = "abroad"


def settings() -> dict[str, str]:
    """What a client's environment says: engine and bus."""
    engine = {"RUSTIC_AI_EXECUTION_ENGINE": ENGINES[ENGINE]}
    if ENGINE == "sync":
        return engine
    url = urlparse(os.environ["RUSTIC_REDIS_URL"])
    return {
        **engine,
        "RUSTIC_AI_MESSAGING_MODULE": "rustic_ai.redis.messaging.backend",
        "RUSTIC_AI_MESSAGING_CLASS": "RedisMessagingBackend",
        "RUSTIC_AI_MESSAGING_BACKEND_CONFIG": json.dumps({"redis_client": {"host": url.hostname, "port": url.port}}),
    }


@pytest.fixture(autouse=True)
def client_environment(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names engine and bus where a client names them."""
    for name, value in settings().items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module", autouse=True)
def ray_cluster() -> Iterator[None]:
    """A cluster in this process's charge, for the engine that needs one. Workers have the environment of its start."""
    if ENGINE != "ray":
        yield
        return
    import ray

    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings().items():
            patch.setenv(name, value)
        # Its agents send each span to a collector before they go on, and wait for one that is not there.
        patch.setenv("OTEL_SDK_DISABLED", "true")
        ray.init(num_cpus=32, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[str]:
    """A metastore with its tables, as whoever runs guild managers prepares it.

    Rustic AI keeps one connection for a process, whatever URL it is given later: it is dropped before and after.
    """
    Metastore.drop_db(unsafe=True)
    url = f"sqlite:///{tmp_path}/metastore.db"
    engine = create_engine(url)
    SQLModel.metadata.create_all(engine)
    engine.dispose()
    yield url
    Metastore.drop_db(unsafe=True)


class Stage:
    """Guilds that end with their test, and a probe in this process for each of them."""

    def __init__(self) -> None:
        self._locals: list[SyncExecutionEngine] = []
        self._guilds: list[Guild] = []

    def keep(self, guild: Guild) -> Guild:
        """Has a guild stopped with the test."""
        self._guilds.append(guild)
        return guild

    def probe(self, guild: Guild, *topics: str) -> "Ear":
        """Adds a listener to a guild.

        Args:
            guild: The guild.
            topics: What it hears beside the default topic and the essential ones.
        """
        builder = (
            AgentBuilder(EssentialProbeAgent)
            .set_id(f"probe-{uuid.uuid4().hex[:6]}")
            .set_name("Probe")
            .set_description("-")
        )
        for topic in topics:
            builder.add_additional_topic(topic)
        local = SyncExecutionEngine(guild_id=guild.id, organization_id=guild.organization_id)
        self._locals.append(local)
        return Ear(guild._add_local_agent(builder.build_spec(), local))

    def end(self) -> None:
        """Stops everything."""
        for local in self._locals:
            local.shutdown()
        for guild in self._guilds:
            engine = guild._get_execution_engine()
            for agent_id in list(engine.get_agents_in_guild(guild.id)):
                # Ray's stops an agent that another process launched, and then misses it in a list of its own.
                with contextlib.suppress(KeyError):
                    engine.stop_agent(guild.id, agent_id)


class Ear:
    """A probe, and how to wait for what it hears."""

    def __init__(self, probe: Any) -> None:
        self._probe = probe

    @property
    def heard(self) -> list[Message]:
        """All that came so far."""
        return list(self._probe.received_messages)

    def say(self, topic: str, payload: BaseModel | dict[str, Any], **options: Any) -> None:
        """Publishes a message.

        Args:
            topic: Where.
            payload: A model, by whose class the message is named, or plain JSON.
            options: Of the message.
        """
        if isinstance(payload, BaseModel):
            options["format"] = get_qualified_class_name(type(payload))
            payload = payload.model_dump(mode="json")
        self._probe.publish_dict(topic, payload, **options)

    def answer(self, question: Message, payload: dict[str, Any]) -> None:
        """Answers a message of another guild, so that the answer finds its way back."""
        message = Message(
            self._probe._generate_id(question.priority),
            topics=Guild.DEFAULT_TOPIC,
            sender=self._probe.get_agent_tag(),
            payload=payload,
            in_response_to=question.id,
            thread=question.thread,
            origin_guild_stack=question.origin_guild_stack,
        )
        self._probe._client.publish(message)

    def hear(self, what: str, wanted: Callable[[Message], bool]) -> Message:
        """Waits for a message.

        Args:
            what: Words for it, should it not come.
            wanted: Whether this is the one.
        """
        return wait_until(what, lambda: next((message for message in self.heard if wanted(message)), None))

    def ask(
        self, topic: str, payload: BaseModel | dict[str, Any], what: str, wanted: Callable[[Message], bool]
    ) -> Message:
        """Asks, again and again, until it is answered: whoever answers may still be on its way up."""
        last = 0.0

        def look() -> Message | None:
            nonlocal last
            if time.monotonic() - last > 1.0:
                last = time.monotonic()
                self.say(topic, payload)
            return next((message for message in self.heard if wanted(message)), None)

        return wait_until(what, look)


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Ends what the test has started."""
    stage = Stage()
    yield stage
    stage.end()


def echo(agent_id: str, *topics: str) -> AgentSpec:
    """Spec of an agent that answers with what it hears."""
    builder = AgentBuilder(EchoAgent).set_id(agent_id).set_name(agent_id.title()).set_description("Echoes")
    for topic in topics:
        builder.add_additional_topic(topic)
    return builder.build_spec()


def builder(guild_id: str, *agents: AgentSpec) -> GuildBuilder:
    """A guild of these agents that names neither engine nor bus."""
    guild = GuildBuilder(guild_id, "Guild", "A guild")
    for agent in agents:
        guild.add_agent_spec(agent)
    return guild


def managed(stage: Stage, guild: GuildBuilder, database: str) -> Guild:
    """Has a manager launch a guild, as an API server does: what the environment names is written into the spec."""
    spec = guild.build_spec()
    spec.set_messaging(**GuildHelper.get_default_messaging_config())
    spec.set_execution_engine(GuildHelper.get_default_execution_engine())
    return stage.keep(GuildBuilder.from_spec(spec).bootstrap(database, ORGANIZATION))


def of(sender: str, format: str | type[BaseModel] = MessageConstants.RAW_JSON_FORMAT) -> Callable[[Message], bool]:
    """Messages of one agent and one kind."""
    name = format if isinstance(format, str) else get_qualified_class_name(format)
    return lambda message: message.sender.id == sender and message.format == name


def kind(format: type[BaseModel]) -> Callable[[Message], bool]:
    """Messages of one kind, whoever sent them."""
    return lambda message: message.format == get_qualified_class_name(format)


def healthy(*agents: str) -> Callable[[Message], bool]:
    """A report in which these agents are well."""

    def wanted(message: Message) -> bool:
        report = message.payload.get("agents", {}) if kind(AgentsHealthReport)(message) else {}
        return set(agents) <= report.keys() and all(report[agent]["checkstatus"] == "ok" for agent in agents)

    return wanted


def test_builder_a_guild_is_launched_and_answers(guild_id: str, stage: Stage) -> None:
    """launch() returns when both agents can be talked to."""
    guild = stage.keep(builder(guild_id, echo("one"), echo("two", "aside")).launch(ORGANIZATION))
    ear = stage.probe(guild, "aside")
    ear.say("aside", {"hello": "two"})
    assert ear.hear("the answer of two", of("two")).payload == {"hello": "two"}
    assert {"one", "two"} <= {agent.id for agent in guild.list_all_running_agents()}


def test_builder_an_agent_that_was_removed_is_gone_and_the_other_answers(guild_id: str, stage: Stage) -> None:
    """By the engine's word, and by its silence."""
    guild = stage.keep(builder(guild_id, echo("one", "aside"), echo("two", "aside")).launch(ORGANIZATION))
    guild.remove_agent("one")
    assert not guild.is_agent_running("one")
    ear = stage.probe(guild, "aside")
    ear.say("aside", {"who": "is there"})
    ear.hear("the answer of two", of("two"))
    assert [agent.id for agent in guild.list_all_running_agents() if agent.id in ("one", "two")] == ["two"]
    assert not [message for message in ear.heard if of("one")(message)]


def test_yaml_a_guild_is_read_configured_and_routed(guild_id: str, stage: Stage, tmp_path: Path) -> None:
    """Templates are filled in; a route changes what an agent's answer is and where it goes."""
    document = {
        "id": guild_id,
        "name": "From YAML",
        "description": "A guild",
        "configuration": {"topic": "aside"},
        "agents": [
            {
                "id": "one",
                "name": "One",
                "description": "Echoes",
                "class_name": EchoAgent.get_qualified_class_name(),
                "additional_topics": ["{{topic}}"],
            }
        ],
        "routes": {
            "steps": [
                {
                    "agent": {"name": "One"},
                    "destination": {"topics": "answers"},
                    "transformer": {"style": "simple", "expression": '{"passed_on": hello}'},
                }
            ]
        },
    }
    (tmp_path / "guild.yaml").write_text(yaml.safe_dump(document))
    spec = GuildBuilder.from_yaml_file(str(tmp_path / "guild.yaml")).build_spec()
    guild = stage.keep(GuildBuilder.from_spec(spec).launch(ORGANIZATION))
    ear = stage.probe(guild, "answers")
    ear.say("aside", {"hello": "there"}, routing_slip=spec.routes)
    answer = ear.hear("the answer by its route", of("one"))
    assert answer.payload == {"passed_on": "there"} and answer.topic_published_to == "answers"


def test_manager_its_guild_is_up_and_reported_healthy(guild_id: str, stage: Stage, database: str) -> None:
    """bootstrap() launches the manager alone; the manager launches the agents, on the same engine."""
    heartbeats = HealthConstants.HEARTBEAT_TOPIC
    guild = managed(stage, builder(guild_id, echo("one", heartbeats), echo("two", heartbeats)), database)
    ear = stage.probe(guild)
    ear.ask(heartbeats, HealthCheckRequest(), "a report that both are well", healthy("one", "two"))


def test_manager_agents_join_and_leave_at_run_time(guild_id: str, stage: Stage, database: str) -> None:
    """Asked over the guild's bus."""
    guild = managed(stage, builder(guild_id, echo("one", HealthConstants.HEARTBEAT_TOPIC)), database)
    ear = stage.probe(guild, GuildTopics.SYSTEM_TOPIC, "aside")
    ear.ask(HealthConstants.HEARTBEAT_TOPIC, HealthCheckRequest(), "a guild that is up", healthy("one"))
    ear.say(GuildTopics.SYSTEM_TOPIC, AgentLaunchRequest(agent_spec=echo("late", "aside")))
    assert ear.hear("the launch", kind(AgentLaunchResponse)).payload["status_code"] == 201
    ear.say("aside", {"hello": "late"})
    ear.hear("the answer of late", of("late"))
    ear.say(GuildTopics.SYSTEM_TOPIC, RemoveAgentRequest(guild_id=guild_id, agent_id="late"))
    ear.hear("the removal", kind(AgentRemovalResponse))
    assert not guild._get_execution_engine().is_agent_running(guild_id, "late")


def test_manager_stops_its_guild_when_asked(guild_id: str, stage: Stage, database: str) -> None:
    """The manager stops every agent, and itself at last."""
    guild = managed(stage, builder(guild_id, echo("one", HealthConstants.HEARTBEAT_TOPIC)), database)
    ear = stage.probe(guild, GuildTopics.SYSTEM_TOPIC)
    ear.ask(HealthConstants.HEARTBEAT_TOPIC, HealthCheckRequest(), "a guild that is up", healthy("one"))
    ear.say(GuildTopics.GUILD_STATUS_TOPIC, StopGuildRequest(guild_id=guild_id, user_id="somebody"))
    wait_until("the guild to be recorded as stopped", lambda: _status(database, guild_id) == "stopped")
    engine = guild._get_execution_engine()
    everybody = ("one", GuildHelper.get_manager_agent_id(guild_id))
    wait_until("all to be gone", lambda: not any(engine.is_agent_running(guild_id, agent) for agent in everybody))


def test_health_every_agent_answers_for_itself(guild_id: str, stage: Stage) -> None:
    """Without a manager."""
    topic = HealthConstants.HEARTBEAT_TOPIC
    guild = stage.keep(builder(guild_id, echo("one", topic), echo("two", topic)).launch(ORGANIZATION))
    ear = stage.probe(guild)
    ear.say(topic, HealthCheckRequest())
    for agent in ("one", "two"):
        assert ear.hear(f"the heartbeat of {agent}", of(agent, Heartbeat)).payload["checkstatus"] == "ok"


def test_state_is_kept_by_the_manager_for_guild_and_agents(guild_id: str, stage: Stage, database: str) -> None:
    """Written by one request, read by another."""
    guild = managed(stage, builder(guild_id, echo("one", HealthConstants.HEARTBEAT_TOPIC)), database)
    ear = stage.probe(guild)
    ear.ask(HealthConstants.HEARTBEAT_TOPIC, HealthCheckRequest(), "a guild that is up", healthy("one"))
    for owner, agent_id in ((StateOwner.GUILD, None), (StateOwner.AGENT, "one")):
        update = StateUpdateRequest(
            state_owner=owner, guild_id=guild_id, agent_id=agent_id, state_update={"colour": owner.value}
        )
        ear.say(GuildTopics.STATE_TOPIC, update)
        ear.hear(
            f"the update of {owner}",
            lambda m: kind(StateUpdateResponse)(m) and m.payload["state"].get("colour") == owner.value,
        )
        ear.say(GuildTopics.STATE_TOPIC, StateFetchRequest(state_owner=owner, guild_id=guild_id, agent_id=agent_id))
        ear.hear(
            f"the state of {owner}",
            lambda m: kind(StateFetchResponse)(m) and m.payload["state"].get("colour") == owner.value,
        )


def _status(database: str, guild_id: str) -> str:
    """What the metastore says of a guild."""
    with contextlib.closing(sqlite3.connect(database.removeprefix("sqlite:///"))) as connection:
        (status,) = connection.execute("select status from guilds where id = ?", (guild_id,)).fetchone()
    return status


def neighbours(guild_id: str) -> tuple[GuildBuilder, GuildBuilder]:
    """A guild with a way out to a second one, which echoes what comes in."""
    every = ["*"]
    envoy = (
        AgentBuilder(EnvoyAgent)
        .set_id("envoy")
        .set_name("Envoy")
        .set_description("Leads out")
        .set_properties({"target_guild": f"{guild_id}-b", "formats_to_forward": every})
        .add_additional_topic(ABROAD)
        .listen_to_default_topic(False)
        .build_spec()
    )
    local = (
        AgentBuilder(EchoAgent)
        .set_id("local")
        .set_name("Local")
        .set_description("Stays")
        .listen_to_default_topic(False)
    )
    local.add_additional_topic(HealthConstants.HEARTBEAT_TOPIC)
    here, there = builder(f"{guild_id}-a", envoy, local.build_spec()), builder(f"{guild_id}-b", echo("far"))
    here.guild_spec_dict["gateway"] = GatewayConfig(input_formats=[], output_formats=[], returned_formats=every)
    there.guild_spec_dict["gateway"] = GatewayConfig(input_formats=every, output_formats=every)
    return here, there


def test_g2g_a_question_goes_to_another_guild_and_its_answer_comes_back(guild_id: str, stage: Stage) -> None:
    """Through an envoy out, a gateway in, and both gateways back."""
    here, there = neighbours(guild_id)
    stage.keep(there.launch(ORGANIZATION))
    ear = stage.probe(stage.keep(here.launch(ORGANIZATION)))
    ear.say(ABROAD, {"hello": "abroad"})
    assert ear.hear("the answer from abroad", of("gateway")).payload == {"hello": "abroad"}


def test_saga_what_a_question_carried_is_there_again_when_its_answer_comes_back(
    guild_id: str, stage: Stage, database: str
) -> None:
    """The session's state is kept in its guild's state meanwhile, by the manager.

    The answer is given only after that: one that overtakes the manager finds nothing, on every engine with processes.
    """
    here, there = neighbours(guild_id)
    there.guild_spec_dict["agents"] = []
    far = stage.probe(stage.keep(there.launch(ORGANIZATION)))
    ear = stage.probe(managed(stage, here, database))
    up = healthy("local", "envoy", "gateway")
    ear.ask(HealthConstants.HEARTBEAT_TOPIC, HealthCheckRequest(), "a guild that is up", up)
    ear.say(ABROAD, {"hello": "abroad"}, session_state={"order": 7})
    question = far.hear("the question abroad", of("gateway"))
    assert not question.session_state, "it stays at home"

    def kept(message: Message) -> bool:
        return kind(StateUpdateResponse)(message) and {"order": 7} in message.payload["state"].values()

    ear.hear("the session to be kept", kept)
    far.answer(question, {"welcome": "home"})
    answer = ear.hear("the answer from abroad", of("gateway"))
    assert answer.payload == {"welcome": "home"} and answer.session_state == {"order": 7}


def test_environment_the_clients_settings_reach_the_manager_without_being_in_the_spec(
    guild_id: str, stage: Stage, database: str
) -> None:
    """A guild that is bootstrapped with nothing but `RUSTIC_AI_*` in the client's environment."""
    heartbeats = HealthConstants.HEARTBEAT_TOPIC
    guild = stage.keep(builder(guild_id, echo("one", heartbeats)).bootstrap(database, ORGANIZATION))
    ear = stage.probe(guild)
    ear.ask(heartbeats, HealthCheckRequest(), "a report that the agent is well", healthy("one"))
