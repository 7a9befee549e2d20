"""An agent whose module imports litellm, which imports two thousand modules."""

import litellm  # noqa: F401

from rustic_ai.core.guild import Agent


class Idle(Agent):
    """Does nothing."""
