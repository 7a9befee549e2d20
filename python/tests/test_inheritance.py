"""Settings that travel with a launch. No stack is needed."""

import pytest

from rustic_ai.k8s.inheritance import inherited
from rustic_ai.k8s.settings import EngineSettings


def test_what_rustic_ai_and_this_package_read_travels() -> None:
    """Of both, and nothing else."""
    environment = {"RUSTIC_AI_EXECUTION_ENGINE": "e", "RUSTIC_RUNTIME_PROFILE": "p", "PATH": "/bin", "HOME": "/root"}
    assert inherited(environment, {}) == {"RUSTIC_AI_EXECUTION_ENGINE": "e", "RUSTIC_RUNTIME_PROFILE": "p"}


@pytest.mark.parametrize(
    "name",
    [
        "RUSTIC_AGENT_ID",
        "RUSTIC_REDIS_URL",
        "RUSTIC_AI_API_KEY",
        "RUSTIC_DB_PASSWORD",
        "RUSTIC_METASTORE",
        "RUSTIC_AI_SERVICE_HOST",
        "RUSTIC_AI_SERVICE_PORT_GRPC",
        "RUSTIC_AI_PORT_50051_TCP_ADDR",
        "RUSTIC_AI_PORT",
    ],
)
def test_who_an_agent_is_secrets_and_service_links_stay(name: str) -> None:
    """A service that is called `rustic-ai` puts its address into every container of its namespace."""
    assert inherited({name: "x"}, {}) == {}


def test_more_travels_by_name_or_by_the_beginning_of_it_and_nothing_if_so_wanted() -> None:
    """A secret travels if it is named."""
    environment = {
        "RUSTIC_INHERIT": "LITELLM_*, OPENAI_BASE_URL,RUSTIC_AI_API_KEY",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MASTER_KEY": "secret",
        "OPENAI_BASE_URL": "http://llm",
        "OPENAI_API_KEY": "secret",
        "RUSTIC_AI_API_KEY": "wanted",
        "RUSTIC_AGENT_ID": "a",
    }
    assert inherited(environment, {}).keys() == {
        "RUSTIC_INHERIT",
        "LITELLM_LOCAL_MODEL_COST_MAP",
        "OPENAI_BASE_URL",
        "RUSTIC_AI_API_KEY",
    }
    assert inherited({**environment, "RUSTIC_INHERIT": "none"}, {"RUSTIC_RUNTIME_PROFILE": "p"}) == {}


def test_what_was_said_to_the_engine_travels_before_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent launches as the engine that launched it was set up, and not as its environment said."""
    monkeypatch.setenv("RUSTIC_RUNTIME_PROFILE", "environment")
    monkeypatch.setenv("RUSTIC_CREATE_TIMEOUT", "7")
    settings = EngineSettings.read("e:1", None, True, "said", None)
    assert (settings.profile, settings.create_timeout) == ("said", 7.0)
    assert settings.inherited["RUSTIC_RUNTIME_PROFILE"] == "said"
    assert settings.inherited["RUSTIC_DETACH_ON_SHUTDOWN"] == "true"
    assert settings.inherited["RUSTIC_CREATE_TIMEOUT"] == "7"
    assert settings.inherited["RUSTIC_ENGINE_ADDRESS"] == "e:1"
    # The same words, read by whoever inherits them.
    for name, value in settings.inherited.items():
        monkeypatch.setenv(name, value)
    again = EngineSettings.read(None, None, None)
    assert (again.profile, again.detach, again.address) == ("said", True, "e:1")


def test_a_choice_that_cannot_be_understood_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what can be chosen."""
    monkeypatch.setenv("RUSTIC_LAUNCH_WAIT", "for ever")
    with pytest.raises(ValueError, match="RUSTIC_LAUNCH_WAIT='for ever' must be accepted or running"):
        EngineSettings.read(None, None, None)


def test_an_agent_reports_what_it_cannot_launch_and_others_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it was said otherwise."""
    monkeypatch.delenv("RUSTIC_AGENT_ID", raising=False)
    assert not EngineSettings.read(None, None, None).reports
    monkeypatch.setenv("RUSTIC_AGENT_ID", "manager")
    assert EngineSettings.read(None, None, None).reports
    monkeypatch.setenv("RUSTIC_LAUNCH_ERRORS", "raise")
    assert not EngineSettings.read(None, None, None).reports
