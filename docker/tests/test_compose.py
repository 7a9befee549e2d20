"""The images at work: a guild from outside, a host that is stopped, one that is killed, and every agent is there.

The tests run in order on one stack, as its life goes.
"""

from collections.abc import Callable
import json
import os
import sys
import time
import urllib.request

from rustic_ai.agent.v1 import agent_pb2
from rustic_ai.engine.v1 import engine_service_pb2 as pb
from stack import HOSTS, Stack, run, version, wait_until

GUILD = "compose"
AGENTS = 24
AGENT_CLASS = "rustic_ai.testing.execution.integration_agents.ResponderProbeAgent"


def _launch(stack: Stack, agent: str) -> agent_pb2.AgentLaunch:
    host = stack.redis_url().rpartition("@")[2].partition(":")[0]
    messaging = {
        "backend_module": "rustic_ai.redis.messaging.backend",
        "backend_class": "RedisMessagingBackend",
        "backend_config": {"redis_client": {"host": host, "port": 6379, "password": stack.password}},
    }
    spec = {"id": agent, "name": agent, "description": "Answers", "class_name": AGENT_CLASS}
    return agent_pb2.AgentLaunch(
        agent_spec=json.dumps(spec),
        guild_spec=json.dumps({"id": GUILD, "name": GUILD, "description": "Of the stack's tests"}),
        messaging_config=json.dumps(messaging),
    )


def _all_run_on(stack: Stack, hosts: set[str]) -> Callable[[], bool]:
    def look() -> bool:
        agents = stack.agents(GUILD).values()
        running = [agent for agent in agents if agent.phase == agent_pb2.AGENT_PHASE_RUNNING and agent.host_id in hosts]
        return len(running) == AGENTS

    return look


def test_containers_are_what_the_file_says(stack: Stack) -> None:
    for service in (*HOSTS, "engine-svc-0", "engine-svc-1", "redis", "prometheus"):
        (told,) = json.loads(run("docker", "inspect", stack.container(service)))
        assert told["State"]["Running"], service
        limits = told["HostConfig"]
        assert limits["ReadonlyRootfs"] and limits["CapDrop"] == ["ALL"], service
        assert limits["SecurityOpt"] == ["no-new-privileges:true"], service
        assert limits["Memory"] > 0 and limits["PidsLimit"] > 0, service
        assert told["Config"]["User"] == "10001:10001", service


def test_the_images_hold_no_compiler_and_say_what_they_are() -> None:
    for image in ("engine-svc", "agent-host"):
        tag = f"{image}:{version()}"
        labels = json.loads(run("docker", "inspect", "-f", "{{json .Config.Labels}}", tag))
        assert labels["org.opencontainers.image.title"] == image
        assert labels["org.opencontainers.image.version"] == version()
        script = "command -v cc gcc g++ clang cargo rustc ld as; test $? -ne 0"
        found = run("docker", "run", "--rm", "--entrypoint", "sh", tag, "-c", script + " && id -u")
        assert found == "10001", found


def test_agent_host_is_process_one_and_shows_no_password(stack: Stack) -> None:
    processes = {process.pid: process.command for process in stack.processes("agent-host-0")}
    assert processes[1].split()[0].endswith("agent-host")
    assert not any(stack.password in command for command in processes.values())


def test_the_ping_pong_guild_plays_from_outside(stack: Stack) -> None:
    environment = os.environ | {
        "RUSTIC_ENGINE_ADDRESS": stack.address("engine-svc-0", 50051),
        "RUSTIC_REDIS_URL": stack.redis_url(),
    }
    output = run(sys.executable, "examples/ping_pong_guild.py", environment=environment)
    assert "is stopped; its agents ran on" in output


def test_agents_start_on_all_hosts_and_both_engines_know_them(stack: Stack) -> None:
    with stack.engine("engine-svc-1") as engine:
        calls = [
            engine.CreateAgent.future(
                pb.CreateAgentRequest(launch=_launch(stack, f"agent-{n}"), pending=pb.PENDING_POLICY_WAIT_FOR_ROOM), timeout=60
            )
            for n in range(AGENTS)
        ]
        for call in calls:
            call.result()
    wait_until("all agents run", _all_run_on(stack, set(HOSTS)), 60)
    assert {agent.host_id for agent in stack.agents(GUILD).values()} == set(HOSTS)


def test_an_agent_does_not_inherit_the_password_of_its_host(stack: Stack) -> None:
    # A command, because a forked Python agent shows an environment in /proc that is not the one it has. Both get the same.
    launch = agent_pb2.AgentLaunch(
        agent_spec=json.dumps({"id": "shell", "name": "shell"}), guild_spec=json.dumps({"id": "environment"})
    )
    launch.runtime.command.argv.extend(["sleep", "600"])
    with stack.engine() as engine:
        agent = engine.CreateAgent(pb.CreateAgentRequest(launch=launch), timeout=60).agent
        environ = run("docker", "exec", stack.container(agent.host_id), "cat", f"/proc/{agent.pid}/environ")
        engine.StopGuild(pb.StopGuildRequest(guild_id="environment"), timeout=60)
    names = {variable.partition("=")[0] for variable in environ.split("\0")}
    assert "RUSTIC_AGENT_ID" in names
    assert not {name for name in names if name.startswith("AGENT_HOST_")}
    assert stack.password not in environ


def test_what_things_take_is_told_for_the_capacity_page(stack: Stack) -> None:
    processes = stack.processes("agent-host-0")
    agents = [process for process in processes if process.command.startswith("rustic-agent")]
    assert agents, "no process is titled as an agent"
    print("\nthreads of each agent:", sorted(process.threads for process in agents))
    for process in processes:
        if process not in agents:
            print(f"beside them: {process.threads} threads, {process.command[:70]}")
    services = [stack.container(service) for service in (*HOSTS, "engine-svc-0", "engine-svc-1", "redis")]
    print(run("docker", "stats", "--no-stream", "--format", "{{.Name}}: {{.MemUsage}}, {{.PIDs}} tasks", *services))


def test_prometheus_sees_every_program(stack: Stack) -> None:
    address = stack.address("prometheus", 9090)

    def look() -> set[str]:
        with urllib.request.urlopen(f"http://{address}/api/v1/query?query=up==1", timeout=5) as response:
            rows = json.load(response)["data"]["result"]
        found = {row["metric"]["instance"].partition(":")[0] for row in rows}
        return found if found == {*HOSTS, "engine-svc-0", "engine-svc-1"} else set()

    wait_until("Prometheus reads everybody's metrics", look, 60)


def test_a_host_that_is_stopped_moves_its_agents_first(stack: Stack) -> None:
    gone = "agent-host-0"
    # docker stop waits as long as the file says the host may drain.
    run("docker", "stop", stack.container(gone))
    (told,) = json.loads(run("docker", "inspect", stack.container(gone)))
    assert told["State"]["ExitCode"] == 0, "the host was killed, or ended badly"
    wait_until("all agents run elsewhere", _all_run_on(stack, set(HOSTS) - {gone}), 10)


def test_agents_of_a_host_that_is_killed_run_on_the_last_one(stack: Stack) -> None:
    began = time.monotonic()
    run("docker", "kill", stack.container("agent-host-1"))
    wait_until("all agents run on the last host", _all_run_on(stack, {"agent-host-2"}), 60)
    print(f"\n{time.monotonic() - began:.1f} s after the kill")


def test_an_engine_that_is_killed_is_not_missed(stack: Stack) -> None:
    run("docker", "kill", stack.container("engine-svc-1"))
    assert _all_run_on(stack, {"agent-host-2"})()


def test_hosts_that_come_back_take_agents_again(stack: Stack) -> None:
    run("docker", "start", stack.container("agent-host-0"), stack.container("agent-host-1"))
    wait_until("all hosts are ready", lambda: stack.ready_hosts() == set(HOSTS), 60)
    assert _all_run_on(stack, set(HOSTS))()


def test_a_stopped_guild_leaves_no_process(stack: Stack) -> None:
    with stack.engine() as engine:
        assert engine.StopGuild(pb.StopGuildRequest(guild_id=GUILD), timeout=60).stopped == AGENTS
    for host in HOSTS:
        left = [process for process in stack.processes(host) if process.command.startswith("rustic-agent")]
        assert not left, host


def test_the_example_of_an_image_of_ones_own_builds_and_imports() -> None:
    tag = f"rustic-custom-example:{version()}"
    base = f"BASE=agent-host:{version()}"
    run("docker", "build", "-q", "--build-arg", base, "-t", tag, "examples/custom-image", timeout=300)
    read_only = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true", "--rm")
    script = "import os, greeter; print(os.getuid(), os.environ['AGENT_HOST_PRELOAD'], greeter.GreeterAgent.__name__)"
    output = run("docker", "run", *read_only, "--entrypoint", "python", tag, "-c", script)
    assert output == "10001 greeter GreeterAgent"
