"""Answers a name with a greeting."""

from pydantic import BaseModel

from rustic_ai.core.guild import agent
from rustic_ai.core.guild.agent import Agent, ProcessContext


class Name(BaseModel):
    """Who wants to be greeted."""

    name: str


class Greeting(BaseModel):
    """What they are told."""

    text: str


class GreeterAgent(Agent):
    """Greets whoever tells a name."""

    @agent.processor(Name)
    def greet(self, ctx: ProcessContext[Name]) -> None:
        """Answers one name.

        Args:
            ctx: The message and the way to answer it.
        """
        ctx.send(Greeting(text=f"Hello, {ctx.payload.name}!"))
