"""Which databases a guild manager on a host can use. Needs no stack."""

import pytest

from rustic_ai.core.agents.testutils.echo_agent import EchoAgent
from rustic_ai.core.guild.agent import AgentSpec
from rustic_ai.core.guild.builders import AgentBuilder, GuildBuilder
from rustic_ai.k8s.metastore import unreachable_database


def manager(url: str) -> AgentSpec:
    """Spec of a guild manager, as bootstrap() makes it."""
    guild = GuildBuilder("g", "G", "A guild").build_spec()
    return AgentSpec(
        id="g#manager_agent",
        name="Manager",
        description="Manages",
        class_name="rustic_ai.core.agents.system.guild_manager_agent.GuildManagerAgent",
        properties={"guild_spec": guild.model_dump(), "database_url": url, "organization_id": "o"},
    )


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:///rustic_app.db", "relative to a working directory"),
        ("sqlite:///./data/app.db", "relative to a working directory"),
        ("sqlite+pysqlite:///rustic_app.db", "relative to a working directory"),
        ("sqlite:///file:app.db?uri=true", "relative to a working directory"),
        ("sqlite://", "in the memory"),
        ("sqlite:///:memory:", "in the memory"),
        ("sqlite:///file:shared?mode=memory&cache=shared&uri=true", "in the memory"),
    ],
)
def test_a_database_that_only_its_creator_finds_is_refused_with_what_to_do(url: str, words: str) -> None:
    """The default of an API server is the first of them."""
    why = unreachable_database(manager(url))
    assert url in why and words in why and "RUSTIC_METASTORE" in why


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////srv/shared/app.db",
        "sqlite:///file:/srv/shared/app.db?uri=true",
        "postgresql+psycopg://rustic:secret@postgres:5432/rustic",
        "mysql+pymysql://rustic@db/rustic",
        "no url at all",
    ],
)
def test_any_other_database_is_the_managers_own_affair(url: str) -> None:
    """An absolute path may be on a volume that all share; what is no URL the manager itself complains about."""
    assert unreachable_database(manager(url)) == ""


def test_other_agents_may_have_a_property_of_that_name() -> None:
    """It means something else to them."""
    spec = AgentBuilder(EchoAgent).set_id("a").set_name("A").set_description("Echoes").build_spec()
    assert unreachable_database(spec) == ""
    other = AgentSpec(
        id="a", name="A", description="-", class_name="not.installed.Agent", properties={"database_url": "sqlite://"}
    )
    assert unreachable_database(other) == ""
