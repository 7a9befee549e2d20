"""An agent of one's own, in a package of one's own."""

from greeter.agent import GreeterAgent, Greeting, Name

__all__ = ["GreeterAgent", "Greeting", "Name"]
