"""Agents of Rustic AI's own packages on this engine: each is created, talked to and stopped, twice, under two ids.

The packages are in a runtime profile of the hosts alone. This process, as any caller, names classes that it cannot
import. What an agent needs from outside is on this machine: a model (`model.py`), tools (`tool_server.py`), files.

`make test-agents` runs the two lives one after the other. `make test-agents-learned` waits between them until the host
has found out what agents of the class may share, so that the second life is forked from all that there is to share;
for the larger packages that takes minutes.

Not here, because they cannot do their work without what this machine does not reach:

- rusticai-claude drives a program that talks to its maker's service; rusticai-serpapi, rusticai-vertexai and
  rusticai-fact-checker talk to such services at addresses that cannot be set;
- rusticai-playwright downloads a browser when its agent is first asked, rusticai-huggingface models;
- rusticai-slack has two agents that hold a connection to Slack; the third one, which does not, is here;
- rusticai-research-manager depends on some of those above; rusticai-showcase too, though one agent of it would start without them;
- rusticai-marvin asks for a rusticai-core before 1.3.
"""

from collections.abc import Callable, Iterator
import os
from pathlib import Path
from typing import Any
import uuid

import pytest

from lives import PROFILE, Conversation, Stage
from model import Model, serving
from rustic_ai.core.messaging import MessagingConfig
from rustic_ai.k8s.execution import K8sExecutionEngine

HERE = Path(__file__).parent
ORGANIZATION = "test-org"
_LLM = "rustic_ai.core.guild.agent_ext.depends.llm.models"
CHAT, CHAT_ANSWER = f"{_LLM}.ChatCompletionRequest", f"{_LLM}.ChatCompletionResponse"


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    """The stand-in for a language model."""
    with serving() as model:
        yield model


@pytest.fixture
def stage(messaging: MessagingConfig, model: Model, tmp_path: Path) -> Iterator[Stage]:
    """A guild of this test's own, with everything that agents of these packages may ask for."""
    engine = K8sExecutionEngine(f"guild-{uuid.uuid4().hex[:12]}", ORGANIZATION, runtime_profile=PROFILE)
    stage = Stage(engine, messaging)
    stage.offer(
        "llm", "rustic_ai.litellm.agent_ext.llm.LiteLLMResolver", model="openai/stand-in", conf={"base_url": model.url}
    )
    # Asynchronous: the knowledge base of rusticai-core takes no other.
    stage.offer(
        "filesystem",
        "rustic_ai.core.guild.agent_ext.depends.filesystem.FileSystemResolver",
        path_base=str(tmp_path),
        protocol="file",
        storage_options={"auto_mkdir": True},
        asynchronous=True,
    )
    stage.offer(
        "kb_backend", "rustic_ai.lancedb.kbindex_backend_lancedb.LanceDBKBIndexBackendResolver", uri=f"{tmp_path}/lance"
    )
    stage.offer("vectorstore", "rustic_ai.chroma.agent_ext.vectorstore.ChromaResolver", chroma_settings={})
    stage.offer(
        "embeddings",
        "rustic_ai.langchain.agent_ext.embeddings.openai.OpenAIEmbeddingsResolver",
        model_conf={"openai_api_base": model.url, "openai_api_key": "none"},
    )
    stage.offer(
        "textsplitter", "rustic_ai.langchain.agent_ext.text_splitter.recursive_splitter.RecursiveSplitterResolver"
    )
    yield stage
    engine.shutdown()


def lives_twice(stage: Stage, class_name: str, properties: dict[str, Any], talk: Callable[[Conversation], Any]) -> None:
    """Runs two agents of a class, one after the other, and has the same conversation with each.

    Args:
        stage: Where.
        class_name: Their class.
        properties: Their properties.
        talk: The conversation; what it returns must be the same for both.
    """
    cold = stage.cold_starts
    with stage.life(class_name, properties) as first:
        said = talk(first)
        stage.learn(class_name)
    with stage.life(class_name, properties) as second:
        assert talk(second) == said
    assert stage.cold_starts == cold, "both were forked"


def chat(conversation: Conversation, words: str = "hello") -> str:
    """Says something to an agent that has a language model, and returns what it answers."""
    answer = conversation.ask(CHAT, {"messages": [{"role": "user", "content": words}]}, CHAT_ANSWER)
    return answer["choices"][0]["message"]["content"]


def test_litellm_an_agent_passes_questions_on_to_its_model(stage: Stage, model: Model) -> None:
    """rusticai-litellm's own agent, which talks to the model itself."""
    model.tool = ""
    properties = {"model": "openai/stand-in", "base_url": model.url, "message_memory": 10}

    def talk(agent: Conversation) -> list[str]:
        answers = [chat(agent, "hello"), chat(agent, "and again")]
        assert answers == ["you said: hello", "you said: and again"]
        return answers

    lives_twice(stage, "rustic_ai.litellm.agent.LiteLLMAgent", properties, talk)


def test_llm_agent_a_guilds_dependency_is_its_model(stage: Stage, model: Model) -> None:
    """rusticai-llm-agent's agent asks the guild for a model; rusticai-litellm provides it."""
    model.tool = ""

    def talk(agent: Conversation) -> str:
        answer = chat(agent)
        assert answer == "you said: hello"
        return answer

    lives_twice(stage, "rustic_ai.llm_agent.llm_agent.LLMAgent", {"model": "openai/stand-in"}, talk)


def test_skills_a_skills_script_runs_as_a_tool(stage: Stage, model: Model) -> None:
    """rusticai-skills: the agent starts a program on its host, whose output goes back to the model."""
    model.tool, model.arguments = "greeter_greet", {"input_text": "Ada"}
    toolset = {"kind": "rustic_ai.skills.toolset.SkillToolset", "skill_paths": [str(HERE / "greeter_skill")]}

    def talk(agent: Conversation) -> str:
        answer = chat(agent, "please greet Ada")
        assert answer == "the tool says: greetings to Ada"
        return answer

    properties = {"model": "openai/stand-in", "toolset": toolset}
    lives_twice(stage, "rustic_ai.llm_agent.react.react_agent.ReActAgent", properties, talk)


def test_pandas_analyst_a_table_is_loaded_with_its_columns(stage: Stage, model: Model, tmp_path: Path) -> None:
    """rusticai-pandas-analyst: a tool of the agent's own process reads a file of the guild with pandas and DuckDB."""
    folder = tmp_path / ORGANIZATION / stage.engine.guild_id / "GUILD_GLOBAL"
    folder.mkdir(parents=True)
    (folder / "sales.csv").write_text("city,sold\nOslo,3\nRome,4\n")
    model.tool, model.arguments = "load_file", {"filename": "sales.csv", "dataset_name": "sales"}
    properties = {
        "model": "openai/stand-in",
        "toolset": {
            "kind": "rustic_ai.pandas_analyst.react_toolset.DataAnalystReActToolset",
            "filesystem_base_path": str(tmp_path),
        },
        "request_preprocessors": [
            {"kind": "rustic_ai.pandas_analyst.file_url_preprocessor.FileUrlExtractorPreprocessor"}
        ],
    }

    def talk(agent: Conversation) -> str:
        answer = chat(agent, "load the sales")
        assert "sales" in answer and "2" in answer and "rror" not in answer, answer
        return answer

    lives_twice(stage, "rustic_ai.llm_agent.react.react_agent.ReActAgent", properties, talk)


def test_mcp_tools_of_a_program_that_the_agent_starts(stage: Stage) -> None:
    """rusticai-mcp starts a server of tools as a child of the agent, in its working directory; none is left over."""
    python = os.environ["RUSTIC_TEST_AGENTS_PYTHON"]
    properties = {"server": {"type": "stdio", "command": python, "args": [str(HERE / "tool_server.py")]}}
    call, answer = "rustic_ai.mcp.models.CallToolRequest", "rustic_ai.mcp.models.CallToolResponse"
    servers: list[tuple[int, str]] = []

    def talk(agent: Conversation) -> list[dict[str, Any]]:
        (result,) = agent.ask(call, {"tool_name": "process"}, answer)["results"]
        pid, folder = result["content"].split(" ", 1)
        servers.append((int(pid), folder))
        sums = agent.ask(call, {"tool_name": "add", "arguments": {"a": 2, "b": 3}}, answer)["results"]
        assert sums == [{"type": "text", "content": "5"}]
        return sums

    lives_twice(stage, "rustic_ai.mcp.agent.MCPAgent", properties, talk)
    assert len({pid for pid, _ in servers}) == len({folder for _, folder in servers}) == 2, servers
    # Not awaited: a stop is answered after all that the agent started has ended, and its directory was removed.
    assert not [one for one in servers if Path(f"/proc/{one[0]}").exists() or Path(one[1]).exists()]


def test_slack_a_mention_becomes_a_question_for_a_model(stage: Stage) -> None:
    """rusticai-slack's agent between Slack's events and the guild."""
    event = {
        "event_type": "app_mention",
        "workspace_id": "W1",
        "user": "U1",
        "channel": "C1",
        "ts": "1.0",
        "event_ts": "1.0",
        "text": "<@UBOT>  what is new?",
    }

    def talk(agent: Conversation) -> str:
        asked = agent.ask("rustic_ai.slack.models.events.SlackEventMessage", event, CHAT)
        assert asked["messages"][0]["content"] == "what is new?"
        return asked["messages"][0]["content"]

    lives_twice(stage, "rustic_ai.slack.agents.event_handler_agent.SlackEventHandlerAgent", {}, talk)


def test_chroma_and_langchain_texts_are_split_embedded_and_found(stage: Stage, model: Model) -> None:
    """rusticai-chroma keeps vectors in memory; rusticai-langchain splits texts and asks the model for vectors."""
    texts = {"harbour": "ships lie in the harbour", "forest": "owls sleep in the forest"}
    documents = [{"id": name, "name": name, "content": text} for name, text in texts.items()]
    package = "rustic_ai.core.agents.indexing.vector_agent"

    def talk(agent: Conversation) -> list[str]:
        stored = agent.ask(f"{package}.IngestDocuments", {"documents": documents}, f"{_STORE}.UpsertResponse")
        assert sorted(stored["succeeded"]) == ["forest-0", "harbour-0"] and stored["failed"] == []
        found = agent.ask(
            f"{package}.VectorSearchQuery", {"query": "ships harbour", "k": 1}, f"{_STORE}.VectorSearchResults"
        )
        names = [result["document"]["id"] for result in found["results"]]
        assert names == ["harbour-0"]
        return names

    before = len(model.asked)
    lives_twice(stage, f"{package}.VectorAgent", {}, talk)
    assert "/v1/embeddings" in model.asked[before:]


def test_lancedb_files_of_the_guild_are_indexed_and_found(stage: Stage, tmp_path: Path) -> None:
    """rusticai-lancedb keeps an index on disk, with threads of its own; the second agent finds what the first left."""
    folder = tmp_path / ORGANIZATION / stage.engine.guild_id / "GUILD_GLOBAL"
    folder.mkdir(parents=True)
    (folder / "harbour.txt").write_text("ships lie in the harbour")
    (folder / "forest.txt").write_text("owls sleep in the forest")
    package = "rustic_ai.core.agents.indexing.knowledge_agent"
    media = [
        {"id": name, "url": f"{name}.txt", "name": f"{name}.txt", "mimetype": "text/plain", "on_filesystem": True}
        for name in ("harbour", "forest")
    ]

    def talk(agent: Conversation) -> str:
        indexed = agent.ask(f"{package}.IndexMediaLinks", {"media": media}, f"{package}.IndexMediaResults")
        assert [one["status"] for one in indexed["results"]] == ["indexed", "indexed"], indexed
        found = agent.ask(
            f"{package}.KBSearchRequest", {"text": "ships harbour", "limit": 1}, f"{package}.KBSearchResults"
        )
        (best,) = found["results"]
        assert "harbour" in str(best["payload"]), found
        return str(best["payload"].get("text"))

    lives_twice(stage, f"{package}.KnowledgeAgent", {}, talk)


_STORE = "rustic_ai.core.guild.agent_ext.depends.vectorstore.vectorstore"
