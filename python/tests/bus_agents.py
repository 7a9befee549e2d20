"""Agents that tests talk to over a message bus."""

import time

from rustic_ai.core.guild import Agent, agent
from rustic_ai.core.guild.agent import ProcessContext
from rustic_ai.core.utils import JsonDict


class Answerer(Agent):
    """Answers each question once for each time that it handles it."""

    @agent.processor(JsonDict)
    def answer(self, ctx: ProcessContext[JsonDict]) -> None:
        """Answers a question, after the time that it asks for."""
        if "question" in ctx.payload:
            time.sleep(ctx.payload.get("seconds", 0))
            ctx.send_dict({"answer": ctx.payload["question"]})
