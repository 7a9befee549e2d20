"""The agent runtime's parts that need no host."""

import os
from pathlib import Path
import socket
import subprocess
import sys
from typing import cast

import pytest
import redis

from rustic_ai.core.messaging import MessagingConfig
from rustic_ai.k8s.runtime.agent import K8sAgentWrapper, quieten, shut_down
from rustic_ai.k8s.runtime.wire import VERSION, Wire
from rustic_ai.redis.messaging.connection_manager import RedisBackendConfig


def _config(module: str, client: object) -> MessagingConfig:
    return MessagingConfig(backend_module=module, backend_class="B", backend_config={"redis_client": client})


@pytest.mark.parametrize(
    ("module", "client", "expected"),
    [
        ("rustic_ai.redis.messaging.backend", {"host": "h"}, {"host": "h", "pubsub_poll_sleep_time": 1.0}),
        ("rustic_ai.redis.messaging.backend", {"pubsub_poll_sleep_time": 0.2}, {"pubsub_poll_sleep_time": 0.2}),
        ("rustic_ai.redis.messaging.backend", {"host": "h", "pubsub_poll_sleep_time": 0.01}, {"host": "h", "pubsub_poll_sleep_time": 0.01}),
        ("rustic_ai.redis.messaging.backend", "something else", "something else"),
        ("somebody.elses", {"host": "h"}, {"host": "h"}),
    ],
)
def test_an_idle_agent_is_quiet_unless_its_caller_chose(module: str, client: object, expected: object) -> None:
    config = _config(module, client)
    quieten(config)
    assert config.backend_config["redis_client"] == expected


@pytest.mark.parametrize(("chosen", "expected"), [({}, 1.0), ({"pubsub_poll_sleep_time": 0.2}, 0.2)])
def test_a_configuration_that_is_written_down_whole_is_quiet_unless_its_caller_chose(
    chosen: dict[str, float], expected: float
) -> None:
    """As a guild writes down what it was given, and a host hands it on."""
    given = _config("rustic_ai.redis.messaging.backend", RedisBackendConfig(host="h", port=1, **chosen))
    config = MessagingConfig.model_validate_json(given.model_dump_json())
    quieten(config)
    assert config.backend_config["redis_client"]["pubsub_poll_sleep_time"] == expected
    assert RedisBackendConfig(**config.backend_config["redis_client"]).host == "h"


_FORK = """
import ctypes, os, platform, sys
from rustic_ai.k8s.runtime import sibling
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: this process plays agent-host
middle = os.fork()
if middle == 0:
    if sys.argv[1] == "twice":
        sibling._KNOWN = ()
    reader, writer = os.pipe()
    def work():
        # Once the zygote has got its process id.
        os.read(reader, 1)
        os._exit(7 if os.getppid() == host else 8)
    host = os.getppid()
    sibling.fork_sibling(work)
    os.write(writer, b".")
    os._exit(0)
codes = {os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2)}
print(sorted(codes))
"""


@pytest.mark.parametrize("way", ["clone", "twice"])
def test_a_sibling_belongs_to_our_parent_which_learns_its_exit(way: str) -> None:
    done = subprocess.run([sys.executable, "-c", _FORK, way], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[0, 7]", done.stderr


_SHARED = """
import ctypes, gc, sys
from rustic_ai.k8s.runtime import shared
class Node:
    pass
before = Node()
def constant():
    return 4711.25
many = [bytes(100) for _ in range(100_000)]
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
chunks = [libc.malloc(1000) for _ in range(2000)]
for chunk in chunks[::2]:
    libc.free(chunk)
pools = {id(one) >> 14 for one in many}
del many[::2]
shared.share()
shared.collapse([])
assert sys.getrefcount(before) == 0xFFFFFFFF, "alive before: immortal"
assert sys.getrefcount(constant()) == 0xFFFFFFFF, "reached through code: immortal"
later = [libc.malloc(1000) for _ in range(1000)]
assert sum(chunk < chunks[-1] for chunk in later) < 10, "nor in the C library's memory"
new = [bytes(100) for _ in range(20_000)]
if sys.argv[1] == "pymalloc":
    assert sum(id(one) >> 14 in pools for one in new) < 200, "what is new fills no holes between what was there"
else:
    assert not shared._fillers, "another allocator is left alone"
def churn():
    for _ in range(1000):
        a, b = Node(), Node()
        a.other, b.other, a.text = b, a, "x" * 1000
churn()
assert gc.collect() >= 2, "garbage of later is still collected"
after = Node()
assert sys.getrefcount(after) < 10, "what comes later is counted"
print("fine")
"""


@pytest.mark.parametrize("allocator", ["pymalloc", "malloc"])
def test_what_is_shared_is_left_alone_by_what_comes_later_and_later_garbage_is_collected(allocator: str) -> None:
    environment = {**os.environ, "PYTHONMALLOC": allocator}
    command = [sys.executable, "-c", _SHARED, allocator]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout.strip() == "fine", done.stderr


_SHUTDOWN = """
import os
import threading
import redis.client
from rustic_ai.k8s.runtime.agent import shut_down

class Full:
    # A socket to which nothing more can be written.
    def __init__(self):
        self.nudged = threading.Event()
    def send(self, data):
        self.nudged.set()
        threading.Event().wait()

class Wrapper:
    def shutdown(self):
        socket.nudged.wait()

socket = Full()
pubsub = redis.Redis().pubsub()
pubsub.connection = redis.Connection()
pubsub.connection._sock = socket
listener = redis.client.PubSubWorkerThread(pubsub, 1.0, daemon=True)
listener.run = threading.Event().wait
listener.start()
shut_down(Wrapper(), 60.0)
print("over", flush=True)
# Without waiting for the thread that still writes.
os._exit(0)
"""


def test_an_agent_whose_listener_cannot_be_nudged_ends_all_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", _SHUTDOWN], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "over", done.stderr


def test_a_listener_wakes_at_once_when_its_agent_is_shut_down(redis_url: str) -> None:
    """With a real server, as the nudge goes past redis-py."""
    with redis.Redis.from_url(redis_url) as client:
        heard = client.pubsub(ignore_subscribe_messages=True)
        heard.subscribe(**{"nudge-test": print})
        # Longer than the test may take: it ends only if it is woken.
        listener = heard.run_in_thread(sleep_time=3600.0, daemon=True)

        class Wrapper:
            def shutdown(self) -> None:
                # Asked to end before it had begun, it would begin anew.
                listener._running.wait()
                listener.stop()
                listener.join()

        shut_down(cast(K8sAgentWrapper, Wrapper()), 600.0)
        assert not listener.is_alive()


_SIGTERM = """
import signal, sys, threading, time
from rustic_ai.k8s.runtime.sigterm import Sigterm

def waits(at):
    # Sends SIGTERM before instruction number `at` of the wait. Returns whether it took that many.
    sigterm, count = Sigterm(), 0
    sigterm.hold()
    def trace(frame, event, argument):
        nonlocal count
        frame.f_trace_opcodes = True
        if event == "opcode":
            count += 1
            if count == at:
                signal.raise_signal(signal.SIGTERM)
        return trace
    def last():
        # When it sleeps there is no instruction left to come before; the signal comes to this thread then.
        seen, same = 0, 0
        while count < at and same < 20:
            seen, same = count, same + 1 if seen == count > 0 else 0
            time.sleep(0.02)
        if count < at:
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    watcher = threading.Thread(target=last)
    watcher.start()
    sys.settrace(trace)
    sigterm.wait(lambda: None, 60)
    sys.settrace(None)
    reached = count >= at
    count = at
    watcher.join()
    return reached

at = 1
while waits(at):
    at += 1
assert at > 20, at
print("ended at", at)
"""


def test_sigterm_ends_the_wait_for_it_at_any_instruction_and_in_any_thread() -> None:
    done = subprocess.run([sys.executable, "-c", _SIGTERM], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("ended"), done.stderr


_FORKED_BY_THE_AGENT = """
import multiprocessing, signal, threading
from rustic_ai.k8s.runtime.sigterm import Sigterm

sigterm = Sigterm()
sigterm.hold()
fork = multiprocessing.get_context("fork")
begun = fork.Event()
def work():
    begun.set()
    signal.pause()
def handle():
    process = fork.Process(target=work)
    process.start()
    begun.wait()
    process.terminate()
    process.join()
    print(process.exitcode, flush=True)
    signal.raise_signal(signal.SIGTERM)
threading.Thread(target=handle).start()
sigterm.wait(lambda: None, 60)
"""


def test_what_an_agent_forks_ends_by_sigterm() -> None:
    done = subprocess.run([sys.executable, "-c", _FORKED_BY_THE_AGENT], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "-15", done.stderr


_REHEARSAL = """
import gc, logging, os, signal, threading
from rustic_ai.k8s.runtime import rehearsal

root = logging.getLogger()
before = (list(root.handlers), root.level, signal.getsignal(signal.SIGALRM))
gc.disable()
rehearsal.rehearse()
assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
open_now = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}")]
assert not any(name.startswith(("socket:", "anon_inode:")) for name in open_now), open_now
assert (list(root.handlers), root.level, signal.getsignal(signal.SIGALRM)) == before
assert not gc.get_freeze_count()
players = [thing for thing in gc.get_objects() if isinstance(thing, rehearsal.Player)]
assert not players, players
print("fine")
"""


def test_a_rehearsal_leaves_no_thread_no_socket_and_no_agent() -> None:
    done = subprocess.run([sys.executable, "-c", _REHEARSAL], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "fine", done.stderr
    assert not done.stderr


_LAYOUT = """
from rustic_ai.k8s.runtime import rehearsal
from rustic_ai.k8s.runtime.layout import Layout

def counter():
    def count(*, by=1):
        nonlocal counted
        counted += by
        return counted
    counted = 0
    return count

def pages_of(layout):
    codes = layout.ran()
    places = {page for code in codes for page in range(id(code) >> 12, (id(code) + code.__sizeof__() >> 12) + 1)}
    return len(codes), len(places)

before = counter()
layout = Layout.look()
rehearsal.rehearse()
before(by=2)
counter()(by=2)
codes, pages = pages_of(layout)
assert codes > 300, codes
layout.move_what_ran()
rehearsal.rehearse()
layout = Layout.look()
rehearsal.rehearse()
moved, pages_of_moved = pages_of(layout)
assert pages_of_moved < pages / 2, (pages_of_moved, pages)
after = counter()
assert (before(), after(), after(by=5)) == (3, 1, 6), "closures of before and after count on"
assert after.__code__ is before.__code__, "what makes functions makes moved ones"
assert all("layout.py" in code.co_filename for code in Layout.look().ran()), "to look at code changes none of it"
print("fine")
"""


def test_code_that_a_rehearsal_has_run_lies_side_by_side_and_runs_as_before() -> None:
    done = subprocess.run([sys.executable, "-c", _LAYOUT], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "fine", done.stderr


# How a rehearsal may go wrong: it raises, it never ends, it leaves a thread.
_SPOILT = {
    "no loopback": "raise OSError('no loopback')",
    "longer than": "threading.Event().wait()",
    "left behind": "threading.Thread(target=threading.Event().wait, name='left behind', daemon=True).start()",
}


@pytest.mark.parametrize("what", _SPOILT)
def test_a_zygote_whose_rehearsal_goes_wrong_serves_without(what: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import threading\n"
        "from rustic_ai.k8s.runtime import rehearsal\n"
        "rehearsal._LONGEST = 0.2\n"
        f"def play(*_):\n    {_SPOILT[what]}\n"
        "rehearsal._play = play\n"
        # Threads are looked for among those that a rehearsal left, as if it had overlooked this one.
        "threading.Thread.join = lambda *_: None\n"
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-P", "-m", "rustic_ai.k8s.runtime.zygote"]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        zygote = subprocess.Popen(command, stdin=theirs, stderr=subprocess.PIPE, text=True, env=environment)
        theirs.close()
        wire = Wire(os.dup(ours.fileno()))
        wire.send(
            {
                "op": "preload",
                "version": VERSION,
                "units": [{"name": "json.tool", "place": "installed", "modules": ["json.tool"], "files": []}],
                "own": "",
                "share": "proven",
                "proven": [],
                "refused": [],
                "vouched": [],
                "memory": 1 << 30,
                "varying": [],
                "directory": str(tmp_path / "trials"),
            }
        )
        hello = wire.receive()
        wire.close()
    _out, errors = zygote.communicate(timeout=60)
    assert hello is not None
    assert hello[0]["obstacle"] == "", "it can fork"
    assert (hello[0]["failed_preloads"], hello[0]["shared"]) == ([], ["json.tool"])
    assert "agents start without what a rehearsal leaves" in errors
    assert what in errors, errors
    assert zygote.returncode == 0
