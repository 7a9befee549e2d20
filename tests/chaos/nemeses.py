"""All nemeses, by their names."""

from collections.abc import Callable

from chaos import bus, churn, freezes, kills, links
from chaos.nemesis import Nemesis
from chaos.scene import Scene

_ALL: list[Callable[[Scene], Nemesis]] = [
    kills.KillHost,
    kills.CrashHost,
    kills.LoseMachine,
    kills.KillEngine,
    kills.KillRedis,
    kills.RedisAway,
    kills.WipeRedis,
    kills.KillZygote,
    kills.StepClock,
    *freezes.for_leases(freezes.FreezeHost),
    *freezes.for_leases(freezes.FreezeMachine),
    links.CutRedis,
    links.CutEngines,
    links.CutBoth,
    links.SlowHost,
    links.SlowRedis,
    bus.KillBus,
    bus.CutBus,
    bus.CutSubscriptions,
    churn.RollingRestart,
    churn.ScaleIn,
    churn.KillCreating,
    churn.EngineCreating,
    freezes.Sabotage,
]
# Those of the short run: of every kind one.
QUICK = (
    "kill-host", "kill-engine", "kill-redis", "kill-zygote", "freeze-host-1", "freeze-machine-3", "cut-redis",
    "wipe-redis", "step-clock", "rolling-restart", "scale-in", "kill-bus", "cut-bus", "cut-subscriptions",
)  # fmt: skip


def catalogue(scene: Scene) -> dict[str, Nemesis]:
    """Every nemesis by its name."""
    return {nemesis.name: nemesis for nemesis in (make(scene) for make in _ALL)}


def usual(scene: Scene) -> list[str]:
    """Names of those that a run strikes with by default: all but the one that must make it fail."""
    return [name for name in catalogue(scene) if name != "sabotage"]
