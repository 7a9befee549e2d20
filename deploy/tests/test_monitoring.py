"""Alerts, recording rules, the dashboard and the adapter: right by promtool, and about metrics that exist."""

from collections.abc import Iterator
import json
from pathlib import Path
import re
import shutil

import pytest
import yaml

from manifests import containers, of_kind, pod_labels, render, selects
import sources
from tools import ROOT, run

# Metrics of others: Prometheus itself, kube-state-metrics, the kubelet.
FOREIGN = re.compile(r"^(up|kube_\w+|kubelet_\w+)$")
RULES = ["deploy/monitoring", "hpa/occupancy"]


def _rules() -> Iterator[dict]:
    for target in RULES:
        for document in of_kind(render(target), "PrometheusRule"):
            for group in document["spec"]["groups"]:
                yield from group["rules"]


def _dashboard() -> dict:
    (config,) = of_kind(render("deploy/monitoring"), "ConfigMap")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    return json.loads(config["data"]["rustic-ai.json"])


def _queries() -> Iterator[tuple[str, str]]:
    """Where a query stands, and the query."""
    for rule in _rules():
        yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in _dashboard()["panels"]:
        for target in panel["targets"]:
            yield f"panel {panel['title']!r}", target["expr"]


def _metrics_in(query: str) -> set[str]:
    """Names of metrics: words that neither call something nor stand in braces, brackets or after `by`."""
    bare = re.sub(r'"[^"]*"', "", query)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|without|on|ignoring)\s*\([^)]*\)", " ", bare)
    words = re.findall(r"\b([a-z_:][a-z0-9_:]*)\b(?!\s*\()", bare)
    return set(words) - {"by", "and", "or", "unless", "sum", "max", "min", "count"}


@pytest.fixture(scope="module")
def rule_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rules as Prometheus reads them, one file a target, beside their tests."""
    folder = tmp_path_factory.mktemp("rules")
    for target in RULES:
        groups = [g for d in of_kind(render(target), "PrometheusRule") for g in d["spec"]["groups"]]
        (folder / f"{target.replace('/', '-')}.yaml").write_text(yaml.safe_dump({"groups": groups}))
    shutil.copy(ROOT / "deploy/tests/alerts.yaml", folder)
    return folder


def test_the_rules_are_valid(rule_files: Path) -> None:
    for target in RULES:
        run("promtool", "check", "rules", rule_files / f"{target.replace('/', '-')}.yaml")


def test_alerts_fire_when_they_should_and_only_then(rule_files: Path) -> None:
    run("promtool", "test", "rules", rule_files / "alerts.yaml")


def test_every_rule_has_a_test() -> None:
    tests = yaml.safe_load((ROOT / "deploy/tests/alerts.yaml").read_text())["tests"]
    tested = {case["alertname"] for test in tests for case in test.get("alert_rule_test", [])}
    fires = {c["alertname"] for t in tests for c in t.get("alert_rule_test", []) if c["exp_alerts"]}
    quiet = {c["alertname"] for t in tests for c in t.get("alert_rule_test", []) if not c["exp_alerts"]}
    alerts = {rule["alert"] for rule in _rules() if "alert" in rule}
    assert tested == alerts == fires == quiet, alerts ^ (fires & quiet)
    recorded = {case["expr"] for test in tests for case in test.get("promql_expr_test", [])}
    assert {rule["record"] for rule in _rules() if "record" in rule} <= recorded


def test_queries_name_metrics_that_the_programs_export() -> None:
    exported = sources.metrics() | {rule["record"] for rule in _rules() if "record" in rule}
    for where, query in _queries():
        named = _metrics_in(query)
        assert named, f"{where}: no metric in {query}"
        unknown = {metric for metric in named if metric not in exported and not FOREIGN.match(metric)}
        assert not unknown, f"{where}: nobody exports {unknown}"


def test_the_dashboard_shows_every_metric() -> None:
    shown = {metric for panel in _dashboard()["panels"] for t in panel["targets"] for metric in _metrics_in(t["expr"])}
    bases = {re.sub(r"_(bucket|sum|count)$", "", metric) for metric in shown}
    for metric in sources.metrics():
        assert metric in shown or re.sub(r"_(bucket|sum|count)$", "", metric) in bases, (
            f"{metric} is not on the dashboard"
        )


def test_queries_name_phases_and_codes_that_exist() -> None:
    codes = {"OK", "Unavailable", "Internal", "DeadlineExceeded", "Unknown", "ResourceExhausted"}
    for where, query in _queries():
        for phase in re.findall(r'phase="([^"]*)"', query):
            assert phase in sources.phases(), f"{where}: {phase}"
        for pattern in re.findall(r'code=~?"([^"]*)"', query):
            assert set(pattern.split("|")) <= codes, f"{where}: {pattern}"


def test_the_dashboard_is_one_that_grafana_can_show() -> None:
    dashboard = _dashboard()
    assert dashboard["uid"] and dashboard["title"] and dashboard["schemaVersion"] >= 36
    assert {variable["name"] for variable in dashboard["templating"]["list"]} == {"datasource", "namespace"}
    identifiers = [panel["id"] for panel in dashboard["panels"]]
    assert len(identifiers) == len(set(identifiers))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        position = panel["gridPos"]
        assert position["x"] + position["w"] <= 24, panel["title"]
        cells = {
            (x, y)
            for x in range(position["x"], position["x"] + position["w"])
            for y in range(position["y"], position["y"] + position["h"])
        }
        assert not cells & taken, f"{panel['title']} covers another panel"
        taken |= cells
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            assert '{namespace="$namespace"' in target["expr"], panel["title"]


def test_the_pod_monitor_finds_both_programs() -> None:
    (monitor,) = of_kind(render("deploy/monitoring"), "PodMonitor")
    installed = render("deploy/overlays/production")
    found = set()
    for workload in of_kind(installed, "Deployment", "StatefulSet"):
        if selects(monitor["spec"]["selector"], pod_labels(workload)):
            found.add(pod_labels(workload)[monitor["spec"]["jobLabel"]])
    assert found == {"engine-svc", "agent-host"}
    ports = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
    for container in containers(installed):
        if container.spec["name"] in found:
            assert ports <= {port["name"] for port in container.spec["ports"]}


def test_the_adapter_offers_what_the_autoscaler_asks_for() -> None:
    values = yaml.safe_load((ROOT / "hpa/occupancy/adapter-values.yaml").read_text())
    (rule,) = values["rules"]["external"]
    (scaler,) = of_kind(render("hpa/occupancy"), "HorizontalPodAutoscaler")
    (metric,) = scaler["spec"]["metrics"]
    assert rule["name"]["as"] == metric["external"]["metric"]["name"]
    recorded = {r["record"] for r in _rules() if "record" in r}
    assert set(re.findall(r"^(\w+)\{", rule["seriesQuery"])) <= recorded
    assert re.match(rule["name"]["matches"], rule["name"]["as"])
    assert rule["resources"]["overrides"] == {"namespace": {"resource": "namespace"}}
    for word in ("<<.Series>>", "<<.LabelMatchers>>", "<<.GroupBy>>"):
        assert word in rule["metricsQuery"]
