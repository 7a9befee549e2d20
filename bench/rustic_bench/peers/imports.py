"""Ours, by what the agents' classes import: the first agent of a class, and those after it."""

import time

import grpc

from rustic_ai.agent_host.v1 import agent_host_service_pb2 as host_pb
from rustic_ai.agent_host.v1.agent_host_service_pb2_grpc import AgentHostServiceStub
from rustic_ai.core.guild.agent import AgentSpec
from rustic_ai.core.guild.dsl import GuildSpec
from rustic_ai.core.messaging import MessagingConfig
from rustic_ai.engine.v1 import engine_service_pb2 as pb
from rustic_ai.k8s import client
from rustic_bench import figures, workload
from rustic_bench.peers.k8s import Guilds

_CLASSES = {
    "nothing": "light",
    "numpy": "numeric",
    "litellm, vouched for": "llm",
    "a module that is not shared": "own",
}
# Seconds until a branch is there, proofs included.
_PATIENCE = 300


def _host(address: str) -> AgentHostServiceStub:
    hosts = client.stub(address).ListHosts(pb.ListHostsRequest()).hosts
    return AgentHostServiceStub(grpc.insecure_channel(hosts[0].address, options=[("grpc.enable_http_proxy", 0)]))


def _wait_until_tried(host: AgentHostServiceStub, module: str) -> float:
    """Waits until it is known what may be shared of a class; returns the seconds."""
    began = time.monotonic()
    while time.monotonic() - began < _PATIENCE:
        profile = host.Health(host_pb.HealthRequest()).profiles[0]
        if module in profile.not_shared or any(module in branch.packages for branch in profile.branches):
            return time.monotonic() - began
        time.sleep(0.05)
    raise TimeoutError(f"{module} was not tried: {profile}")


def imports(count: int) -> list[dict]:
    """Creates agents of each class one by one, in turns, so that all meet the same machine."""
    guilds = Guilds()
    starts: dict[str, list[float]] = {}
    proofs: dict[str, float] = {}

    def create(name: str) -> float:
        module = f"rustic_bench.agents.{_CLASSES[name]}"
        (launch,) = workload.launches(1)
        guild = GuildSpec.model_validate_json(launch.guild)
        agent = AgentSpec.model_validate_json(launch.agent).model_copy(update={"class_name": f"{module}.Idle"})
        began = time.monotonic()
        bus = MessagingConfig.model_validate_json(launch.messaging)
        guilds.engine(guild.id).run_agent(guild, agent, bus, launch.machine_id)
        return time.monotonic() - began

    for name in _CLASSES:
        starts[name] = [create(name)]
        host = _host(guilds.engine("any").engine_address)
        proofs[name] = _wait_until_tried(host, f"rustic_bench.agents.{_CLASSES[name]}")
    for _ in range(count):
        for name in _CLASSES:
            starts[name].append(create(name))
    guilds.stop()
    light = figures.percentile(starts["nothing"][1:], 0.5)

    def row(name: str) -> dict:
        first, *later = starts[name]
        ratio = round(figures.percentile(later, 0.5) / light, 2)
        return figures.times(name, later, first_ms=round(first * 1000, 1), tried_s=round(proofs[name], 2), of_light=ratio)

    return [row(name) for name in _CLASSES]


if __name__ == "__main__":
    figures.carry_out({"imports": imports})
