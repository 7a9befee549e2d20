"""Whether a guild manager that runs on a host can reach the database that its launch names.

Rustic AI hands a manager the URL that its caller uses, and creates tables only where the caller runs. A URL that means
something else in another process leads to an empty database there, of which SQLAlchemy says no more than "no such
table: guilds".
"""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Optional

from pydantic import BaseModel
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from rustic_ai.core.guild.agent import AgentSpec

_MANAGER = "rustic_ai.core.agents.system.guild_manager_agent.GuildManagerAgent"
_ADVICE = (
    "name a database that hosts reach over the network, such as postgresql+psycopg://user:password@host/name: "
    "an API server takes it from RUSTIC_METASTORE, bootstrap() as its first argument; hosts need its driver as well"
)


def unreachable_database(spec: AgentSpec) -> str:
    """Why a guild manager could not use its database from another process.

    Args:
        spec: What is to be launched.

    Returns:
        The reason, and what to do, without the URL's password; empty if there is none, or if the agent is no guild
        manager.
    """
    url = _property(spec.properties, "database_url") if spec.class_name == _MANAGER else None
    obstacle = _obstacle(url) if isinstance(url, str) else ""
    return f"{obstacle}; {_ADVICE}" if obstacle else ""


def _obstacle(text: str) -> str:
    try:
        url = make_url(text)
    except ArgumentError:
        # The manager's own error will say it better than a guess.
        return ""
    if url.get_backend_name() != "sqlite":
        return ""
    database = (url.database or "").removeprefix("file:")
    if database in ("", ":memory:") or url.query.get("mode") == "memory":
        return f"the guild's database {text} lies in the memory of one process, and the manager is another one"
    if not PurePosixPath(database).is_absolute():
        return (
            f"the guild's database {text} is a path relative to a working directory, and the manager's own is an "
            "empty one on its host: it would find no table there"
        )
    return ""


def _property(properties: Any, name: str) -> Optional[Any]:
    if isinstance(properties, BaseModel):
        return getattr(properties, name, None)
    return properties.get(name) if isinstance(properties, Mapping) else None
