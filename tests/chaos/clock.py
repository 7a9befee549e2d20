"""A wall clock of one program's own, which a nemesis steps: `tests/clock/shift_clock.c`, loaded before the program."""

from pathlib import Path
import struct
import subprocess

SOURCE = Path(__file__).resolve().parent.parent / "clock" / "shift_clock.c"


class ShiftedClock:
    """The clock."""

    def __init__(self, folder: Path) -> None:
        """Makes a clock that is right.

        Args:
            folder: Where its library and its state are.
        """
        self._library, self._state = folder / "shift_clock.so", folder / "shift_clock"
        self._ahead = 0
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", self._library, SOURCE], check=True)
        self._state.write_bytes(self._bytes())

    @property
    def environment(self) -> dict[str, str]:
        """What a program must find in its environment."""
        return {"LD_PRELOAD": str(self._library), "SHIFT_CLOCK": str(self._state)}

    def step(self, seconds: float) -> None:
        """Steps the clock.

        Args:
            seconds: Forward, or back if negative.
        """
        self._ahead += round(seconds * 1_000_000)
        # In place: the program has it mapped.
        with self._state.open("r+b") as state:
            state.write(self._bytes())

    def _bytes(self) -> bytes:
        return struct.pack("=qd", self._ahead, 1.0)
