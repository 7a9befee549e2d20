"""An agent whose module imports nothing but Rustic AI."""

from rustic_ai.core.guild import Agent


class Idle(Agent):
    """Does nothing."""
