"""What the Rust sources declare: flags with their defaults, metrics, phases, and times that are fixed."""

from functools import cache
from pathlib import Path
import re

from tools import ROOT

# Each program's prefix of environment twins, and the files that declare its flags.
_SHARED = ["telemetry/src/settings.rs", "telemetry/src/grpc/server.rs"]
_SETTINGS = {
    "AGENT_HOST": ["agent-host/src/settings.rs", *_SHARED],
    "ENGINE_SVC": ["engine-svc/src/settings.rs", *_SHARED],
}
_FLAG = re.compile(r"#\[arg\(long(?P<rest>.*?)\)\]\s*pub (?P<field>\w+):", re.DOTALL)
_TEXT_DEFAULT = re.compile(r'default_value = "([^"]*)"')
_METRIC = re.compile(r'Metric::(?P<kind>Seconds|Count|Gauge)\(\s*"(?P<name>\w+)"')
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@cache
def flags(prefix: str) -> dict[str, str | None]:
    """Environment twins of a program's flags, each with its default where that is written as text."""
    found: dict[str, str | None] = {}
    for file in _SETTINGS[prefix]:
        for flag in _FLAG.finditer((ROOT / file).read_text()):
            default = _TEXT_DEFAULT.search(flag["rest"])
            found[f"{prefix}_{flag['field'].upper()}"] = default[1] if default else None
    assert len(found) > 10, f"the settings of {prefix} are not written as this expects"
    return found


def seconds(text: str) -> float:
    """Seconds of a duration such as `500ms`, `10s` or `2m`."""
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)", text)
    assert parts, f"{text!r} is no duration"
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def constant(file: str, word: str) -> float:
    """Seconds of a constant `const WORD: Duration = Duration::from_secs(2);`."""
    found = re.search(rf"const {word}: Duration = Duration::from_secs\((\d+)\)", (ROOT / file).read_text())
    assert found, f"{file} has no constant {word} in seconds any more; this check must follow"
    return float(found[1])


@cache
def metrics() -> frozenset[str]:
    """Names of all time series that the programs export."""
    names: set[str] = set()
    for crate in ("agent-host", "engine-svc", "telemetry"):
        for file in (ROOT / crate / "src").rglob("*.rs"):
            for metric in _METRIC.finditer(file.read_text()):
                base = metric["name"]
                names |= (
                    {f"{base}_{part}" for part in ("bucket", "sum", "count")} if metric["kind"] == "Seconds" else {base}
                )
    assert names, "the sources declare metrics in another way than this expects"
    return frozenset(names)


@cache
def phases() -> frozenset[str]:
    """Words of agents' phases."""
    text = (ROOT / "core/src/record.rs").read_text()
    block = re.search(r"\n    Phase \{(.*?)\n    \}", text, re.DOTALL)
    assert block, "core/src/record.rs writes phases in another way than this expects"
    return frozenset(re.findall(r'= "([A-Z]+)"', block[1]))
