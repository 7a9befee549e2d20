"""Settings in manifests: names that the programs know, and times that fit together."""

import re

import pytest

from manifests import WHOLE, Container, containers, pod_spec, render, settings_flags
import sources
from tools import ROOT

PREFIXES = {"agent-host": "AGENT_HOST", "engine-svc": "ENGINE_SVC"}
# Seconds that must be left when everything has taken as long as it may.
SLACK = 5


@pytest.fixture(params=WHOLE)
def services(request: pytest.FixtureRequest) -> dict[str, Container]:
    found = {c.spec["name"]: c for c in containers(render(request.param)) if c.spec["name"] in PREFIXES}
    assert set(found) == set(PREFIXES)
    return found


def _seconds(container: Container, flag: str) -> float:
    prefix = PREFIXES[container.spec["name"]]
    twin = f"{prefix}_{flag.replace('-', '_').upper()}"
    value = settings_flags(container).get(flag) or container.env().get(twin) or sources.flags(prefix)[twin]
    assert value, f"{container}: nobody says how long {flag} is"
    return sources.seconds(value)


def test_variables_are_settings_or_parts_of_settings(services: dict[str, Container]) -> None:
    for program, container in services.items():
        prefix = PREFIXES[program]
        known = set(sources.flags(prefix))
        parts = {part for value in container.env().values() for part in re.findall(r"\$\((\w+)\)", value)}
        unknown = container.env_names() - known - parts
        assert not unknown, f"{container}: {unknown} is no setting of {program} and no part of one"
        # An agent inherits its host's environment without these: the password must be among them.
        assert all(variable.startswith(prefix + "_") for variable in container.env_names())


def test_parts_are_declared_before_they_are_used(services: dict[str, Container]) -> None:
    for container in services.values():
        declared: set[str] = set()
        for entry in container.spec["env"]:
            used = set(re.findall(r"\$\((\w+)\)", entry.get("value", "")))
            assert used <= declared, f"{container}: {entry['name']} uses {used - declared} too early"
            declared.add(entry["name"])
        assert len(declared) == len(container.spec["env"]), f"{container}: a variable is set twice"


def test_ports_are_those_that_the_programs_listen_on(services: dict[str, Container]) -> None:
    for container in services.values():
        prefix = PREFIXES[container.spec["name"]]
        ports = {port["name"]: port["containerPort"] for port in container.spec["ports"]}
        assert container.env()[f"{prefix}_LISTEN"] == f"[::]:{ports['grpc']}"
        assert container.env()[f"{prefix}_METRICS_LISTEN"] == f"[::]:{ports['metrics']}"


def test_a_host_has_time_to_drain_and_to_stop(services: dict[str, Container]) -> None:
    host = services["agent-host"]
    assert "lifecycle" not in host.spec, "a hook would take time that this does not count"
    needed = _seconds(host, "drain-timeout") + _seconds(host, "stop-timeout")
    needed += sources.constant("agent-host/src/supervisor.rs", "RECORDS")
    needed += sources.constant("agent-host/src/lib.rs", "LAST_CALLS")
    needed += sources.constant("agent-host/src/lib.rs", "LAST_STEPS")
    needed += sources.constant("telemetry/src/traces.rs", "FLUSH")
    assert pod_spec(host.workload)["terminationGracePeriodSeconds"] >= needed + SLACK


def test_an_engine_has_time_to_stop(services: dict[str, Container]) -> None:
    engine = services["engine-svc"]
    command = engine.spec["lifecycle"]["preStop"]["exec"]["command"]
    assert command[0] == "sleep"
    needed = float(command[1]) + _seconds(engine, "stop-timeout")
    needed += sources.constant("engine-svc/src/lib.rs", "LAST_CALLS")
    needed += sources.constant("engine-svc/src/lib.rs", "LAST_STEPS")
    needed += sources.constant("telemetry/src/traces.rs", "FLUSH")
    assert pod_spec(engine.workload)["terminationGracePeriodSeconds"] >= needed + SLACK


def test_a_lease_can_be_renewed_before_its_agents_are_killed(services: dict[str, Container]) -> None:
    host = services["agent-host"]
    ttl, margin = _seconds(host, "lease-ttl"), _seconds(host, "lease-margin")
    assert ttl / 3 + margin < ttl


def test_the_documents_tell_the_same_defaults() -> None:
    table = (ROOT / "docs/settings.md").read_text()
    for flag in ("drain-timeout", "lease-ttl"):
        twin = f"AGENT_HOST_{flag.replace('-', '_').upper()}"
        row = next(line for line in table.splitlines() if line.startswith("|") and f"`--{flag} " in line and twin in line)
        assert f"`{sources.flags('AGENT_HOST')[twin]}`" in row
