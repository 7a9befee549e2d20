"""What every nemesis is."""

from abc import ABC, abstractmethod

from chaos.scene import Scene


class Nemesis(ABC):
    """One way to hurt the stack; the first line of documentation of each says which.

    Attributes:
        name: What people call it.
        hold: Seconds between strike and heal.
    """

    name: str
    hold = 0.0

    def __init__(self, scene: Scene) -> None:
        """Remembers the scene; does nothing yet."""
        self.scene = scene

    @abstractmethod
    def strike(self) -> None:
        """Hurts."""

    def heal(self) -> None:  # noqa: B027 what does not last needs no healing
        """Takes back what `strike` did and lasts."""

    def after(self) -> None:  # noqa: B027 few leave anything behind
        """Tidies up when all is well again."""
