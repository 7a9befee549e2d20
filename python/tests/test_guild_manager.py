"""A guild manager that runs as an agent launches the agents of its guild through the same engine."""

from pathlib import Path

import pytest

from conftest import Probe, wait_until
from rustic_ai.core.agents.testutils.echo_agent import EchoAgent
from rustic_ai.core.guild.agent_ext.mixins.health import HealthConstants
from rustic_ai.core.guild.builders import AgentBuilder, GuildBuilder
from rustic_ai.core.guild.metastore import Metastore
from rustic_ai.core.messaging import MessagingConfig

ENGINE = "rustic_ai.k8s.execution.K8sExecutionEngine"


def echo(agent_id: str):
    """Spec of an agent that answers."""
    return (
        AgentBuilder(EchoAgent)
        .set_id(agent_id)
        .set_name(agent_id.title())
        .set_description("Echoes")
        .add_additional_topic(HealthConstants.HEARTBEAT_TOPIC)
        .build_spec()
    )


@pytest.fixture
def guild(guild_id: str, org_id: str, messaging: MessagingConfig, tmp_path: Path):
    """A guild of which only the manager was launched from here."""
    builder = (
        GuildBuilder(guild_id, "Managed", "A guild with a manager")
        .set_execution_engine(ENGINE)
        .set_messaging(messaging.backend_module, messaging.backend_class, messaging.backend_config)
        .add_agent_spec(echo("one"))
        .add_agent_spec(echo("two"))
    )
    database = f"sqlite:///{tmp_path}/metastore.db"
    # Whoever runs guild managers prepares their database; the manager itself runs elsewhere.
    Metastore.initialize_engine(database)
    guild = builder.bootstrap(database, org_id)
    yield guild
    guild._get_execution_engine().shutdown()


def test_the_manager_launches_its_guild_and_reports_it_healthy(guild) -> None:
    """The manager's agents run in processes of their own, and its health report says that all is well."""
    engine = guild._get_execution_engine()
    wanted = {"one", "two"}
    running = wait_until(
        "the manager and both agents to run",
        lambda: (found := engine.get_agents_in_guild(guild.id)).keys() > wanted
        and all(engine.is_agent_running(guild.id, agent_id) for agent_id in found)
        and found,
    )
    assert len(running) == 3

    probe = Probe(guild)

    def reported_healthy() -> bool:
        return any(
            wanted <= agents.keys() and all(agents[agent_id]["checkstatus"] == "ok" for agent_id in wanted)
            for agents in probe.reports()
        )

    try:
        wait_until("a report that both agents are healthy", reported_healthy)
    finally:
        probe.close()
