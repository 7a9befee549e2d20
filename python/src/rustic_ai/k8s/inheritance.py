"""What an agent inherits from the environment of whoever launches it: the settings by which it launches others in turn.

A guild's manager is an agent, and launches the agents of its guild from wherever it runs. Rustic AI and this package read from the
environment how that is done, so those variables travel with every launch. `docs/rustic-ai.md` lists them.
"""

from collections.abc import Mapping
import re

# Of Rustic AI, `RUSTIC_AI_…`, and ours.
_PREFIXES = ("RUSTIC_",)
# Those that say who an agent is, and those of programs that are no agents.
_NEVER = re.compile(r"RUSTIC_(AGENT_.*|REDIS_URL|DEV_.*)")
# Kubernetes puts `<SERVICE>_SERVICE_HOST` and the like into every container of a namespace that has a service of such a name.
_SERVICE_LINKS = re.compile(r".*(_SERVICE_(HOST|PORT)(_.*)?|_PORT|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
# Names that secrets have, and the API server's database, whose URL has a password. Whoever lists one by name means it.
_SECRET = re.compile(
    r"(^|_)(PASSWORD|PASSWD|SECRET|SECRETS|TOKEN|TOKENS|KEY|KEYS|CREDENTIAL|CREDENTIALS)(_|$)|^RUSTIC_METASTORE$"
)
_CHOICE = "RUSTIC_INHERIT"
_NOTHING = "none"


def inherited(environment: Mapping[str, str], explicit: Mapping[str, str]) -> dict[str, str]:
    """The variables that a launch carries.

    Args:
        environment: Environment of whoever launches. `RUSTIC_INHERIT` in it is `none`, for nothing at all, or names more variables, by
            name or by the beginning of the name with a `*`, separated by commas.
        explicit: What was said otherwise than by the environment; it wins.
    """
    choice = environment.get(_CHOICE, "").strip()
    if choice.lower() == _NOTHING:
        return {}
    named = [name.strip() for name in choice.split(",") if name.strip()]
    exact = {name for name in named if not name.endswith("*")}
    prefixes = _PREFIXES + tuple(name.removesuffix("*") for name in named if name.endswith("*"))

    def travels(name: str) -> bool:
        if _NEVER.fullmatch(name):
            return False
        if name in exact:
            return True
        return name.startswith(prefixes) and not _SECRET.search(name) and not _SERVICE_LINKS.fullmatch(name)

    return {name: value for name, value in {**environment, **explicit}.items() if travels(name)}
