"""Who reaches whom, by carrying the policies out: a connection needs the leave of both ends."""

from dataclasses import dataclass, field
from ipaddress import ip_network

import pytest

from manifests import COMPONENTS, TARGETS, Document, name, of_kind, render, selects

OURS = "rustic-ai"
PORTS = {
    "grpc-engine": ("grpc", 50051),
    "grpc-host": ("grpc", 50052),
    "redis": ("redis", 6379),
    "metrics": ("metrics", 9090),
}


@dataclass(frozen=True)
class Pod:
    """A pod as policies see it."""

    labels: dict[str, str]
    namespace: str = OURS
    namespace_labels: dict[str, str] = field(default_factory=dict)

    def spaces(self) -> dict[str, str]:
        return {"kubernetes.io/metadata.name": self.namespace, **self.namespace_labels}


def _app(app: str) -> Pod:
    return Pod({"app.kubernetes.io/name": app})


ENGINE, HOST, REDIS = _app("engine-svc"), _app("agent-host"), _app("redis")
CALLER = Pod({"rustic-ai/engine-caller": "true", "rustic-ai/redis-caller": "true"})
FAR_CALLER = Pod(CALLER.labels, "team-a", {"rustic-ai/callers": "true"})
STRANGER = Pod({"app": "stranger"})
PRETENDER = Pod(CALLER.labels, "team-b")
PROMETHEUS = Pod({"app": "prometheus"}, "monitoring")
DNS = Pod({"k8s-app": "kube-dns"}, "kube-system")
KEDA = Pod({"app": "keda-operator"}, "keda")


def _peer_matches(peer: Document, pod: Pod) -> bool:
    if "ipBlock" in peer:
        return False
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], pod.spaces()):
            return False
    elif pod.namespace != OURS:
        return False
    return selects(peer.get("podSelector", {}), pod.labels)


def _allows(policies: list[Document], direction: str, pod: Pod, other: Pod, port: tuple[str | int, ...]) -> bool:
    if pod.namespace != OURS:
        return True
    mine = [p["spec"] for p in policies if selects(p["spec"]["podSelector"], pod.labels)]
    mine = [spec for spec in mine if direction.capitalize() in spec["policyTypes"]]
    side = "from" if direction == "ingress" else "to"
    return not mine or any(
        any(_peer_matches(peer, other) for peer in rule[side]) and any(p["port"] in port for p in rule["ports"])
        for spec in mine
        for rule in spec.get(direction, [])
    )


def _reaches(policies: list[Document], source: Pod, target: Pod, port: tuple[str | int, ...]) -> bool:
    out = _allows(policies, "egress", source, target, port)
    return out and _allows(policies, "ingress", target, source, port)


@pytest.mark.parametrize("target", ["deploy/base", "deploy/overlays/production", "deploy/overlays/minimal"])
def test_what_must_be_reached_is_and_nothing_else(target: str) -> None:
    policies = of_kind(render(target), "NetworkPolicy")
    everybody = {
        "engine": ENGINE,
        "host": HOST,
        "redis": REDIS,
        "caller": CALLER,
        "far caller": FAR_CALLER,
        "stranger": STRANGER,
        "pretender": PRETENDER,
        "prometheus": PROMETHEUS,
    }
    servers = {
        ("engine", "grpc-engine"): {"host", "caller", "far caller"},
        ("engine", "metrics"): {"prometheus"},
        ("host", "grpc-host"): {"engine"},
        ("host", "metrics"): {"prometheus"},
        ("redis", "redis"): {"engine", "host", "caller", "far caller"},
    }
    for (server, port), expected in servers.items():
        reached = {who for who, pod in everybody.items() if _reaches(policies, pod, everybody[server], PORTS[port])}
        assert reached == expected, f"{server} {port}"


@pytest.mark.parametrize("target", [*TARGETS, *COMPONENTS])
def test_egress_names_no_ports(target: str) -> None:
    # Cilium looks a name up among all pods of the cluster, and drops a rule whose name has more than one number.
    for policy in of_kind(render(target), "NetworkPolicy"):
        for rule in policy["spec"].get("egress", []):
            assert all(isinstance(port["port"], int) for port in rule["ports"]), name(policy)


@pytest.mark.parametrize("target", [*TARGETS, *COMPONENTS])
def test_exceptions_lie_within_their_blocks(target: str) -> None:
    for policy in of_kind(render(target), "NetworkPolicy"):
        for rule in [*policy["spec"].get("egress", []), *policy["spec"].get("ingress", [])]:
            for peer in rule.get("to", rule.get("from", [])):
                block = peer.get("ipBlock", {})
                for text in block.get("except", []):
                    cidr, exception = ip_network(block["cidr"]), ip_network(text)
                    assert exception.version == cidr.version and exception.prefixlen > cidr.prefixlen, text
                    assert exception.subnet_of(cidr), text  # type: ignore[arg-type]
                    # The API server takes such an address for IPv4, which lies within no IPv6 block.
                    assert getattr(exception.network_address, "ipv4_mapped", None) is None, text


def test_every_pod_can_ask_dns_and_nothing_else_outside() -> None:
    policies = of_kind(render("deploy/base"), "NetworkPolicy")
    for pod in (ENGINE, HOST, REDIS, CALLER, STRANGER):
        assert _reaches(policies, pod, DNS, (53,))
        assert not _reaches(policies, pod, Pod({}, "elsewhere"), (443,))


def test_keda_reaches_the_engine_only_with_its_own_policy() -> None:
    policies = of_kind(render("deploy/base"), "NetworkPolicy")
    assert not _reaches(policies, KEDA, ENGINE, PORTS["grpc-engine"])
    policies += of_kind(render("hpa/keda"), "NetworkPolicy")
    assert _reaches(policies, KEDA, ENGINE, PORTS["grpc-engine"])
    assert not _reaches(policies, KEDA, HOST, PORTS["grpc-host"])


def test_agents_reach_the_internet_only_with_the_component_and_never_the_cluster() -> None:
    (policy,) = (
        p
        for p in of_kind(render("deploy/components/agents-internet"), "NetworkPolicy")
        if p["metadata"]["name"] == "agents-internet"
    )
    (rule,) = policy["spec"]["egress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 443}]
    four, six = (peer["ipBlock"]["except"] for peer in rule["to"])
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"} <= set(four)
    assert {"fc00::/7", "fe80::/10"} <= set(six)
