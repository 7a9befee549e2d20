"""A network of namespaces on this machine: every node has an address of its own, links can be cut and slowed.

A hub namespace holds a bridge; every node is a namespace with one end of a veth pair, the other end is a port of the
bridge. Nothing is added to the machine's own namespace. The harness itself moves into the hub.
"""

from dataclasses import dataclass, field
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import sys
import time

from chaos.waiting import wait_until

_SUBNET = "10.199.0"
_NAMESPACES = Path("/run/netns")
_NAME = re.compile(r"chaos-(\d+)-")
_PATIENCE = 10.0


class Missing(Exception):
    """Something that the network needs is not there; the text says what to do."""


@dataclass
class Node:
    """A namespace with an address.

    Attributes:
        name: Short name, such as `host-0`.
        namespace: Name of the namespace.
        address: IPv4 address.
        port: Name of the bridge port.
    """

    name: str
    namespace: str
    address: str
    port: str
    _delay: subprocess.Popen[bytes] | None = field(default=None, repr=False)


def check_machine() -> None:
    """Raises `Missing` unless namespaces, links and filters can be made here."""
    if os.geteuid() != 0:
        raise Missing("network namespaces need root: run this as root, such as with sudo")
    for tool, package in {"ip": "iproute2", "iptables": "iptables"}.items():
        if not shutil.which(tool):
            raise Missing(f"{tool} is missing: install it (Debian: apt-get install {package})")


def run(*command: str, check: bool = True) -> str:
    """Runs a command and returns what it says.

    Raises:
        Missing: It failed; without `check` never.
    """
    done = subprocess.run(command, capture_output=True, text=True)
    if check and done.returncode:
        raise Missing(f"`{' '.join(command)}` failed: {done.stderr.strip()}; does this machine allow namespaces?")
    return done.stdout


def pids(namespace: str) -> list[int]:
    """Processes of a namespace."""
    return [int(pid) for pid in run("ip", "netns", "pids", namespace, check=False).split()]


class Network:
    """The hub and its nodes, until `end`."""

    def __init__(self) -> None:
        """Makes the hub and moves this process into it. Call it before any thread is started."""
        self.prefix = f"chaos-{os.getpid()}"
        self.hub = f"{self.prefix}-hub"
        self.nodes: list[Node] = []
        self.slowed_by = ""
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY)
        remove_leftovers()
        run("ip", "netns", "add", self.hub)
        try:
            run("ip", "-n", self.hub, "link", "set", "lo", "up")
            run("ip", "-n", self.hub, "link", "add", "bridge", "type", "bridge")
            run("ip", "-n", self.hub, "addr", "add", f"{_SUBNET}.1/24", "dev", "bridge")
            run("ip", "-n", self.hub, "link", "set", "bridge", "up")
            _enter(_NAMESPACES / self.hub)
        except BaseException:
            self.end()
            raise

    def add(self, name: str) -> Node:
        """Adds a node."""
        number = len(self.nodes) + 2
        node = Node(name, f"{self.prefix}-{name}", f"{_SUBNET}.{number}", f"port{number}")
        run("ip", "netns", "add", node.namespace)
        self.nodes.append(node)
        link = ("type", "veth", "peer", "name", "eth0", "netns", node.namespace)
        run("ip", "-n", self.hub, "link", "add", node.port, *link)
        run("ip", "-n", self.hub, "link", "set", node.port, "master", "bridge", "up")
        run("ip", "-n", node.namespace, "addr", "add", f"{node.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            run("ip", "-n", node.namespace, "link", "set", device, "up")
        return node

    def cut(self, node: Node, peers: list[Node]) -> None:
        """Drops every packet between a node and its peers, without notice to either."""
        for peer in peers:
            _filter(node, "-A", "INPUT", "-s", peer.address, "-j", "DROP")
            _filter(node, "-A", "OUTPUT", "-d", peer.address, "-j", "DROP")

    def slow(self, node: Node, milliseconds: int, jitter: int) -> None:
        """Delays every packet to a node: by netem, or where the kernel has none, by a program that holds packets."""
        delay = ("delay", f"{milliseconds}ms", f"{jitter}ms")
        device = ("dev", node.port, "root", "netem")
        tried = ["tc", "-n", self.hub, "qdisc", "replace", *device, *delay]
        if shutil.which("tc") and subprocess.run(tried, capture_output=True).returncode == 0:
            self.slowed_by = "netem"
            return
        self.slowed_by = "a queue of packets held by chaos.delay"
        command = [sys.executable, "-m", "chaos.delay", str(milliseconds), str(jitter)]
        node._delay = subprocess.Popen(
            ["ip", "netns", "exec", node.namespace, *command], stdout=subprocess.PIPE, start_new_session=True
        )
        assert node._delay.stdout is not None
        if node._delay.stdout.readline() != b"ready\n":
            raise Missing("this kernel has neither netem nor packet queues (NFQUEUE): the network cannot be slowed")
        _filter(node, "-A", "INPUT", "-i", "eth0", "-j", "NFQUEUE", "--queue-num", "0", "--queue-bypass")

    def mend(self, node: Node) -> None:
        """Takes back every cut and delay of a node."""
        for chain in ("INPUT", "OUTPUT"):
            _filter(node, "-F", chain)
        run("tc", "-n", self.hub, "qdisc", "del", "dev", node.port, "root", check=False)
        if node._delay is not None:
            node._delay.kill()
            node._delay.wait()
            node._delay = None

    def pids(self, node: Node) -> list[int]:
        """Every process on a node."""
        own = node._delay.pid if node._delay else None
        return [pid for pid in pids(node.namespace) if pid != own]

    def end(self) -> None:
        """Ends every process on every node and removes the namespaces. Idempotent."""
        for node in self.nodes:
            if node._delay is not None:
                node._delay.kill()
                node._delay.wait()
        os.setns(self._home, os.CLONE_NEWNET)
        _remove([node.namespace for node in self.nodes] + [self.hub])
        self.nodes.clear()


def remove_leftovers() -> None:
    """Removes what harnesses left behind that were killed before they could."""
    names = run("ip", "netns", "list").split()
    left = [name for name in names if (m := _NAME.match(name)) and not Path(f"/proc/{m[1]}").exists()]
    _remove(left)


def _remove(namespaces: list[str]) -> None:
    for namespace in namespaces:

        def empty(namespace: str = namespace) -> tuple[bool | None, object]:
            left = pids(namespace)
            for pid in left:
                _kill(pid)
            return (None if left else True), left

        if (_NAMESPACES / namespace).exists():
            wait_until(f"the processes of {namespace} to end", empty, _PATIENCE)
            run("ip", "netns", "del", namespace, check=False)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _enter(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.setns(descriptor, os.CLONE_NEWNET)
    finally:
        os.close(descriptor)


def _filter(node: Node, *rule: str) -> None:
    run("ip", "netns", "exec", node.namespace, "iptables", "-w", *rule)


def boottime() -> int:
    """Now, in nanoseconds of CLOCK_BOOTTIME."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
