"""An agent whose module imports uuid, of which it keeps what differs from process to process."""

import uuid

from rustic_ai.core.guild import Agent

ID = uuid.uuid4()


class Idle(Agent):
    """Does nothing."""
