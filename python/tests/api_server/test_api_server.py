"""rusticai-api with this engine and PostgreSQL, driven as a browser drives it: REST, and a websocket for each user.

`make test-api-server` runs it, with rusticai-api, Ray (which rusticai-api imports, used or not) and psycopg in one
environment, which is also that of the hosts: a guild's manager runs on one, and opens the database there.
"""

from collections.abc import Iterator
import contextlib
import json
from pathlib import Path
import time
from typing import Any
from urllib.error import HTTPError
import uuid

import pytest
from websockets.sync.client import ClientConnection, connect

from programs import ApiServer, postgresql
from rustic_ai.engine.v1 import engine_service_pb2 as pb
from rustic_ai.k8s import client
from rustic_ai.k8s.execution import K8sExecutionEngine

ORGANIZATION, USER = "test-org", "ada"
PATIENCE = 60.0
_TOPIC = "questions"
_TEXT = "rustic_ai.core.ui_protocol.types.TextFormat"


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """URL of a database of these tests' own."""
    with postgresql() as url:
        yield url


@pytest.fixture(scope="module")
def server(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server."""
    server = ApiServer(tmp_path_factory.mktemp("api-server"), database)
    yield server
    server.kill()


@pytest.fixture
def spec() -> Iterator[dict[str, Any]]:
    """A guild whose one agent answers users with what they say."""
    guild_id = f"guild-{uuid.uuid4().hex[:12]}"
    user_proxy = "rustic_ai.core.agents.utils.user_proxy_agent.UserProxyAgent"
    yield {
        "id": guild_id,
        "name": "Echoes",
        "description": "Answers",
        "agents": [
            {
                "id": "echo",
                "name": "Echo",
                "description": "Echoes",
                "class_name": "rustic_ai.core.agents.testutils.echo_agent.EchoAgent",
                "additional_topics": [_TOPIC],
                "listen_to_default_topic": False,
            }
        ],
        "routes": {
            "steps": [
                {
                    "agent_type": user_proxy,
                    "method_name": "unwrap_and_forward_message",
                    "destination": {"topics": _TOPIC},
                },
                {"agent": {"name": "Echo"}, "destination": {"topics": "user_message_broadcast"}},
            ]
        },
    }
    K8sExecutionEngine(guild_id, ORGANIZATION).shutdown()


@contextlib.contextmanager
def user(server: ApiServer, guild_id: str) -> Iterator[ClientConnection]:
    """A user who is connected to a guild."""
    with connect(
        f"ws://127.0.0.1:{server.port}/ws/guilds/{guild_id}/usercomms/{USER}/Ada", open_timeout=PATIENCE
    ) as socket:
        yield socket


def chat(socket: ClientConnection, words: str) -> dict[str, Any]:
    """Says something until the guild's agent answers: a guild takes its time to come up, and keeps no words for agents
    to come.

    Args:
        socket: A user's.
        words: Which no other call says.

    Returns:
        The answer.
    """
    give_up, heard = time.monotonic() + PATIENCE, []
    while time.monotonic() < give_up:
        socket.send(json.dumps({"format": _TEXT, "payload": {"text": words}, "topics": _TOPIC, "priority": 4}))
        with contextlib.suppress(TimeoutError):
            while True:
                message = json.loads(socket.recv(timeout=1.0))
                heard.append((message["sender"]["id"], message["format"]))
                if message["sender"]["id"] != f"user_socket:{USER}" and _echoed(message, words):
                    return message
    pytest.fail(f"nobody answered {words!r}; heard {heard}")


def _echoed(message: dict[str, Any], words: str) -> bool:
    """Whether it is the agent's answer; the user's own words come back as well, without the agent in their history."""
    passed = {entry["agent"]["id"] for entry in message["message_history"]}
    return message["payload"].get("text") == words and "echo" in passed


def running(guild_id: str) -> set[str]:
    """Agents of a guild, as the engine knows them."""
    return set(K8sExecutionEngine(guild_id, ORGANIZATION).get_agents_in_guild(guild_id))


def pids(guild_id: str) -> set[int]:
    """Their processes."""
    stub = client.stub(K8sExecutionEngine(guild_id, ORGANIZATION).engine_address)
    return {agent.pid for agent in stub.ListAgents(pb.ListAgentsRequest(guild_id=guild_id)).agents}


def test_a_guild_outlives_the_api_server_that_launched_it(server: ApiServer, spec: dict[str, Any]) -> None:
    """Made over REST, talked to over a websocket; the server is killed, another takes its place, the talk goes on."""
    guild_id = spec["id"]
    assert server.call("POST", "/api/guilds", {"spec": spec, "org_id": ORGANIZATION}) == {"id": guild_id}
    with user(server, guild_id) as socket:
        chat(socket, "before")
    before = running(guild_id)
    assert {f"{guild_id}#manager_agent", "echo"} < before and len(before) == 3, f"no proxy of the user: {before}"
    processes = pids(guild_id)

    server.kill()
    assert running(guild_id) == before
    server.start_again()
    assert server.call("POST", f"/api/guilds/{guild_id}/relaunch") == {"is_relaunching": False}
    with user(server, guild_id) as socket:
        chat(socket, "after")
    assert running(guild_id) == before and pids(guild_id) == processes, "nothing was started anew"
    said = json.dumps(server.call("GET", f"/api/guilds/{guild_id}/{USER}/messages"))
    assert "before" in said and "after" in said, "the history is that of both servers"

    K8sExecutionEngine(guild_id, ORGANIZATION).shutdown()
    assert running(guild_id) == set()


def test_a_guild_that_was_lost_is_launched_anew_from_the_database(server: ApiServer, spec: dict[str, Any]) -> None:
    """All its agents were stopped behind the server's back; a relaunch brings them back."""
    guild_id = spec["id"]
    server.call("POST", "/api/guilds", {"spec": spec, "org_id": ORGANIZATION})
    with user(server, guild_id) as socket:
        chat(socket, "first")
    K8sExecutionEngine(guild_id, ORGANIZATION).shutdown()
    assert running(guild_id) == set()
    assert server.call("POST", f"/api/guilds/{guild_id}/relaunch") == {"is_relaunching": True}
    with user(server, guild_id) as socket:
        chat(socket, "second")


def test_a_guild_is_launched_from_a_blueprint(server: ApiServer, spec: dict[str, Any]) -> None:
    """The catalogue keeps blueprint and guild in the same database."""
    blueprint = {
        "name": "Echoes",
        "description": "Answers",
        "version": "1",
        "author_id": USER,
        "organization_id": ORGANIZATION,
        "category_id": None,
        "spec": {key: value for key, value in spec.items() if key != "id"},
    }
    offered = server.call("GET", "/api/registry/agents/")
    server.call("POST", "/catalog/agents", offered[spec["agents"][0]["class_name"]])
    made = server.call("POST", "/catalog/blueprints/", blueprint)
    launch = {"guild_name": "From a blueprint", "user_id": USER, "org_id": ORGANIZATION, "guild_id": spec["id"]}
    launched = server.call("POST", f"/catalog/blueprints/{made['id']}/guilds", launch)
    assert launched == {"id": spec["id"]}
    with user(server, spec["id"]) as socket:
        chat(socket, "hello")
    assert server.call("GET", f"/api/guilds/{spec['id']}")["name"] == "From a blueprint"


def test_the_catalogue_of_agents_has_none_of_this_package(server: ApiServer) -> None:
    """rusticai-api imports every class below `rustic_ai` that is derived from Agent, and offers it to users."""
    offered = server.call("GET", "/api/registry/agents/")
    assert "rustic_ai.core.agents.testutils.echo_agent.EchoAgent" in offered
    assert [name for name, entry in offered.items() if entry["qualified_class_name"].startswith("rustic_ai.k8s")] == []


def test_the_default_database_is_refused_with_what_to_do(spec: dict[str, Any], tmp_path: Path) -> None:
    """Without RUSTIC_METASTORE, a file in the server's working directory, where no manager on a host would find it."""
    server = ApiServer(tmp_path, None)
    try:
        # rusticai-api 1.4.0 answers 500 to whatever a launch raises, and logs what it was.
        with pytest.raises(HTTPError):
            server.call("POST", "/api/guilds", {"spec": spec, "org_id": ORGANIZATION})
        assert "relative to a working directory" in server.log() and "RUSTIC_METASTORE" in server.log()
        assert running(spec["id"]) == set()
    finally:
        server.kill()
