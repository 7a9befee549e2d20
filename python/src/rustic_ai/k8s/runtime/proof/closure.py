"""What the class of an agent imports: modules in groups that are shared, or not, as a whole.

Reported by an agent that was forked from a base zygote, in which nothing of anybody's is loaded: only there can be seen what its class
would import by itself.
"""

from dataclasses import asdict, dataclass, field
from enum import StrEnum
import sys
from types import ModuleType
from typing import Any

from rustic_ai.k8s.runtime.proof.watch import code_places

# Most modules that are reported; an agent that imports more is not learned from.
_MOST = 8192


class Place(StrEnum):
    """Whose code a unit is."""

    # The package of the agent's class.
    OWN = "own"
    # A source folder that is no installed distribution.
    LOCAL = "local"
    # An installed distribution, or Python itself.
    INSTALLED = "installed"


@dataclass
class Unit:
    """A package, or a module that stands alone.

    Attributes:
        name: The package.
        place: Whose code it is.
        modules: What of it was imported, in this order.
        files: Where that came from.
    """

    name: str
    place: Place
    modules: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, data: dict[str, Any]) -> "Unit":
        """Reads what `asdict` wrote."""
        return cls(data["name"], Place(data["place"]), list(data["modules"]), list(data["files"]))


def modules() -> list[tuple[str, ModuleType]]:
    """Modules that are loaded and could be imported. What has no spec was put there by others, as Cython does."""
    found = list(sys.modules.items())
    return [(name, one) for name, one in found if isinstance(one, ModuleType) and getattr(one, "__spec__", None) is not None]


def units(inherited: frozenset[str], class_module: str) -> list[dict[str, Any]]:
    """What this process has imported beyond what it inherited, dependencies more or less first.

    Args:
        inherited: Modules that were there when it was forked.
        class_module: Module of the agent's class.

    Returns:
        Units as dictionaries; none when there are too many modules.
    """
    new = [(name, module) for name, module in modules() if name not in inherited]
    if len(new) > _MOST:
        return []
    own, places = package_of(class_module), code_places()
    found: dict[str, Unit] = {}
    for name, module in new:
        package = package_of(name)
        file = getattr(module, "__file__", None) or ""
        place = Place.OWN if package == own else Place.INSTALLED if file.startswith(places) or not file else Place.LOCAL
        unit = found.setdefault(package, Unit(package, place))
        unit.modules.append(name)
        if file:
            unit.files.append(file)
    # A module enters the list when its import begins, before what it imports itself.
    return [asdict(unit) for unit in reversed(found.values())]


def package_of(name: str) -> str:
    """The outermost regular package that a module is in: a namespace such as `google` belongs to many distributions."""
    parts = name.split(".")
    for length in range(1, len(parts)):
        prefix = ".".join(parts[:length])
        if getattr(sys.modules.get(prefix), "__file__", None):
            return prefix
    return name
