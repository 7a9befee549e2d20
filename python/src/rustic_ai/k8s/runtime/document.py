"""The launch document that agent-host writes to a process."""

from dataclasses import dataclass, fields
import json
from typing import Any

VERSION = 1


@dataclass(frozen=True)
class Skip:
    """A message that the agent is not handed any more.

    Attributes:
        topic: Its topic, with the namespace.
        message_id: Its id.
        deaths: How often the agent died over it.
        reason: How it died last.
    """

    topic: str
    message_id: int
    deaths: int
    reason: str


@dataclass(frozen=True)
class LaunchDocument:
    """What to run. Specs are JSON text as the guild wrote it.

    Attributes:
        version: Version of this document.
        guild_id: Id of the guild.
        agent_id: Id of the agent.
        organization_id: Organization of the guild, or empty.
        epoch: Fencing token of the claim.
        machine_id: For Rustic AI's id generator, 1 to 255.
        agent_spec: JSON of AgentSpec.
        guild_spec: JSON of GuildSpec.
        messaging_config: JSON of MessagingConfig.
        client_type: Name of the messaging client; empty: SimpleClient.
        client_properties: JSON object; empty: none.
        state: File in which the process says what it is at work on; empty: nobody reads it.
        watched: The host watches whether the handling loop comes round.
        skip: Messages that are set aside instead of being handled.
        memory_limit: Memory that the process may use beyond what its interpreter takes, in bytes; 0: no limit.
        share: Which of those agents of the guild this is that have the same machine id, from 0 to 62.
    """

    version: int
    guild_id: str
    agent_id: str
    organization_id: str
    epoch: int
    machine_id: int
    agent_spec: str
    guild_spec: str
    messaging_config: str
    client_type: str
    client_properties: str
    state: str = ""
    watched: bool = False
    skip: tuple[Skip, ...] = ()
    memory_limit: int = 0
    share: int = 0

    @classmethod
    def parse(cls, text: bytes) -> "LaunchDocument":
        """Reads a document.

        Raises:
            ValueError: It is no document of this version.
        """
        data = json.loads(text)
        version = data.get("version") if isinstance(data, dict) else None
        if version != VERSION:
            raise ValueError(
                f"agent-host sent launch document version {version}, this rusticai-k8s understands {VERSION}; "
                "install the same release of both"
            )
        known: dict[str, Any] = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        return cls(**known | {"skip": tuple(Skip(**skip) for skip in data.get("skip", ()))})
