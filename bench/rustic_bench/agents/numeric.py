"""An agent whose module imports numpy."""

import numpy  # noqa: F401

from rustic_ai.core.guild import Agent


class Idle(Agent):
    """Does nothing."""
