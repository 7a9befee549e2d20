"""What is shared was proven, and what must not be shared is found, whatever it is and in whatever company."""

from collections.abc import Iterator
import json
import os
from pathlib import Path
import random
import subprocess
import sys
from typing import Any

import pytest

# What a module does while it is imported, and a word of the reason for which it is not shared.
HARMFUL: dict[str, tuple[str, str]] = {
    "file": ("F = open('/dev/null')", "open descriptors"),
    "socket": ("import socket\nS = socket.socket()", "open descriptors"),
    "pipe": ("import os\nP = os.pipe()", "open descriptors"),
    "epoll": ("import select\nE = select.epoll()", "open descriptors"),
    "memfd": ("import os\nM = os.memfd_create('m')", "open descriptors"),
    "database": ("import sqlite3\nD = sqlite3.connect('d.db')\nD.execute('create table t (x)')", "open descriptors"),
    "queue": ("import multiprocessing\nQ = multiprocessing.SimpleQueue()", "open descriptors"),
    "closed": ("import os\nos.close(0)", "open descriptors: 0"),
    "thread": ("import threading\nT = threading.Thread(target=threading.Event().wait, daemon=True, name='meddler')\nT.start()", "meddler"),
    "daemon": ("import os\nif os.fork() == 0:\n    os.setsid()\n    import time\n    time.sleep(1000)", "os.fork"),
    "program": ("import subprocess\nsubprocess.run(['true'])", "starts programs"),
    "memory shared": ("import mmap\nM = mmap.mmap(-1, 4096)", "shared memory"),
    "handler": ("import signal\nsignal.signal(signal.SIGUSR1, lambda *_: None)", "SIGUSR1"),
    "mask": ("import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])", "SigBlk"),
    "timer": ("import signal\nsignal.setitimer(signal.ITIMER_REAL, 1000)", "timers"),
    "variable": ("import os\nos.environ['ODD'] = '1'", "ODD"),
    "variable of C": ("import os\nos.putenv('ODD', '1')", "ODD"),
    "directory": ("import os\nos.chdir('/')", "working directory"),
    "umask": ("import os\nos.umask(0o77)", "umask"),
    "limit": ("import resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))", "RLIMIT_CORE"),
    "nice": ("import os\nos.nice(1)", "niceness"),
    "locale": ("import locale\nlocale.setlocale(locale.LC_NUMERIC, 'C.UTF-8')", "locale"),
    "time zone": ("import os, time\nos.environ['TZ'] = 'Asia/Tokyo'\ntime.tzset()", "TZ"),
    "root handler": ("import logging\nlogging.getLogger().addHandler(logging.NullHandler())", "logger root"),
    "root level": ("import logging\nlogging.getLogger().setLevel(1)", "logger root"),
    "disabled": ("import logging\nlogging.disable(50)", "disabled below"),
    "other's logger": ("import logging\nlogging.getLogger('asyncio').setLevel(1)", "logger asyncio"),
    "timeout": ("import socket\nsocket.setdefaulttimeout(1)", "default timeout"),
    "recursion": ("import sys\nsys.setrecursionlimit(4711)", "recursion limit"),
    "excepthook": ("import sys\nsys.excepthook = print", "sys.excepthook"),
    "displayhook": ("import sys\nsys.displayhook = print", "sys.displayhook"),
    "finder": ("import sys\nclass F:\n    @staticmethod\n    def find_spec(*_):\n        return None\nsys.meta_path.append(F)", "sys.meta_path"),
    "path hook": ("import sys\ndef hook(path):\n    raise ImportError\nsys.path_hooks.append(hook)", "sys.path_hooks"),
    "search path": ("import sys\nsys.path.append('/odd')", "/odd"),
    "profile": ("import threading\nthreading.setprofile(lambda *_: None)", "tracing"),
    "at exit": ("import atexit\natexit.register(print)", "functions at exit"),
    "filter removed": ("import warnings\nwarnings.resetwarnings()", "filter for warnings"),
    "seed": ("import random\nrandom.seed(1)", "random state"),
    "loop policy": ("import asyncio\nasyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())", "event loop"),
    "loop": ("import asyncio\nL = asyncio.new_event_loop()\nasyncio.set_event_loop(L)", "open descriptors"),
    "start method": ("import multiprocessing\nmultiprocessing.set_start_method('spawn')", "start method"),
    "collector": ("import gc\ngc.set_threshold(1)", "garbage collector"),
    "decimals": ("import decimal\ndecimal.getcontext().prec = 3", "decimal context"),
    "function patched": ("import json\njson.dumps = print", "json.dumps was replaced"),
    "method patched": ("import json\njson.JSONEncoder.default = print", "json.encoder.JSONEncoder.default"),
    "name added": ("import json\njson.odd = object()", "json.odd was added"),
    "module replaced": ("import sys, types\nsys.modules['json'] = types.ModuleType('json')", "json was replaced"),
    "uuid": ("import uuid\nID = uuid.uuid4()", ".ID differs"),
    "generator": ("import random\nR = random.Random()", ".R differs"),
    "default argument": ("import random\ndef f(n=random.random()):\n    pass", ".f differs"),
    "closure": ("import os\ndef g():\n    pid = os.getpid()\n    return lambda: pid\nf = g()", ".f differs"),
    "attribute": ("import os\nclass C:\n    pid = [os.getpid()]", ".C differs"),
    "remembered": ("import functools, os\n@functools.lru_cache\ndef f():\n    return os.getpid()\nf()", ".f differs"),
    "in a set": ("import os\nS = {1, (2, os.getpid())}", ".S differs"),
    "place": ("import os\nCWD = os.getcwd()", ".CWD differs"),
    "moment": ("import time\nT = int(time.time())", "the time of now"),
    "day": ("import datetime\nD = datetime.date.today()", "the date of today"),
    "day as text": ("import datetime\nD = f'since {datetime.date.today()}'", "the date of today"),
    "environment": ("import os\nE = dict(os.environ)", "whole environment"),
    "own variable": ("import tempfile\nT = tempfile.gettempdir()", "TMPDIR"),
    "file read": ("import pathlib\nT = pathlib.Path('/etc/hostname').read_text()", "/etc/hostname"),
    "file written": ("open('odd', 'w').close()", "writes to"),
    "network": ("import socket\ntry:\n    socket.create_connection(('127.0.0.1', 1))\nexcept OSError:\n    pass", "network"),
    "raises": ("raise ValueError('not today')", "not today"),
    "exits": ("import sys\nsys.exit(3)", "SystemExit"),
    "ends": ("import os\nos._exit(3)", "exit code 3"),
    "crashes": ("import ctypes\nctypes.string_at(0)", "SIGSEGV"),
    "hangs": ("while True:\n    pass", "longer than"),
    "eats memory": ("X = bytearray(1 << 30)", "MemoryError"),
}
# What may be shared: memory, the same everywhere.
HARMLESS: dict[str, str] = {
    "values": "A, B, C = 1, 'text', [1.5, {'a': (None, b'x')}]\nS = {'a', 'b', 3, (4, 5)}",
    "functions": "import functools\ndef f(a, *, b=[1]):\n    return a\ng = functools.partial(f, 2)\nh = functools.lru_cache(f)\nl = lambda: f",
    "classes": "import abc, enum\nclass B(abc.ABC):\n    x: int = 1\nclass E(enum.Enum):\n    A = 1\nclass S(B):\n    __slots__ = ('a',)\ns = S()",
    "dataclass": "import dataclasses\n@dataclasses.dataclass(order=True)\nclass D:\n    a: int\n    b: list = dataclasses.field(default_factory=list)\nd = D(1)",
    "model": "import pydantic\nclass M(pydantic.BaseModel):\n    a: int = 1\n    b: list['M'] = []\nm = M(a=2, b=[M()])",
    "agent": "from rustic_ai.core.guild import Agent, agent\nfrom rustic_ai.core.utils import JsonDict\nclass A(Agent):\n    @agent.processor(JsonDict)\n    def hear(self, ctx):\n        pass",
    "logger": "import logging\nLOG = logging.getLogger(__name__)\nLOG.addHandler(logging.NullHandler())",
    "locks": "import threading, queue\nL, R, E, Q = threading.Lock(), threading.RLock(), threading.Event(), queue.Queue()",
    "pattern": "import re\nP = re.compile('a+b')",
    "seeded": "import random\nR = random.Random(7)",
    "variable": "import os\nV = os.environ.get('SOME_SETTING', 'x')",
    "warnings": "import warnings\nwarnings.filterwarnings('ignore', message='odd')",
    "more of Python": "import colorsys, wave, sqlite3, xml.dom.minidom",
    "weak": "import weakref\nclass C: pass\nc = C()\nw = weakref.ref(c)\nm = weakref.WeakValueDictionary(a=c)",
}
# Facts without which a harm would be shared: the proof is only as good as each of them.
ONLY_BY: dict[str, str] = {
    "file": "open descriptors",
    "memory shared": "shared memory",
    "limit": "limits",
    "nice": "niceness",
    "locale": "locale",
    "disabled": "settings of logging",
    "timeout": "default timeout of sockets",
    "recursion": "recursion limit",
    "finder": "hooks",
    "search path": "module search path",
    "at exit": "functions at exit",
    "seed": "random state",
    "start method": "start method of multiprocessing",
    "collector": "garbage collector",
}
_COMBINATIONS = 40


class Worker:
    """A process that proves modules."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, str(Path(__file__).with_name("proof_worker.py")), str(folder)]
        pipe = subprocess.PIPE
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment, cwd=folder)
        self._count = 0

    def prove(self, text: str, without: str = "") -> dict[str, Any]:
        """Proves a module with this text, under a name of its own."""
        self._count += 1
        task = {"name": f"odd_{self._count}", "text": text, "without": without}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def end(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """One for all tests: what a proof leaves behind would spoil the next."""
    worker = Worker(tmp_path_factory.mktemp("modules"))
    yield worker
    worker.end()


@pytest.mark.parametrize("what", HARMFUL)
def test_what_must_not_be_shared_is_refused_with_its_reason_and_leaves_nothing(what: str, worker: Worker) -> None:
    text, reason = HARMFUL[what]
    report = worker.prove(text)
    assert not report["shared"], report
    assert reason in report["why"], report
    assert report["neighbour"] == []


@pytest.mark.parametrize("what", HARMLESS)
def test_what_may_be_shared_is_and_changes_nothing_that_was_there(what: str, worker: Worker) -> None:
    report = worker.prove(HARMLESS[what])
    assert report["shared"], report
    assert [change for change in report["neighbour"] if "filter" not in change] == []


@pytest.mark.parametrize("what", ONLY_BY)
def test_a_proof_that_leaves_out_one_look_would_share_what_it_must_not(what: str, tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    report = worker.prove(HARMFUL[what][0], without=ONLY_BY[what])
    worker.end()
    assert report["shared"], report
    assert report["neighbour"] != [], "and a neighbour finds it"


def test_variables_that_were_asked_for_are_reported_by_name(worker: Worker) -> None:
    report = worker.prove("import os\nA = os.getenv('ONE')\nB = 'TWO' in os.environ\nC = os.environb.get(b'THREE')")
    assert report["shared"], report
    assert {"ONE", "TWO", "THREE"} <= set(report["reads"])


def test_whatever_modules_do_in_combination_their_neighbour_comes_out_untouched(worker: Worker) -> None:
    """With a new seed each time; it is printed when something is found."""
    seed = random.SystemRandom().randrange(1 << 32)
    dice = random.Random(seed)
    # Those that end the import would hide what comes after them.
    going_on = [what for what in HARMFUL if what not in ("raises", "exits", "ends", "crashes", "hangs", "eats memory")]
    for _ in range(_COMBINATIONS):
        harmful = dice.sample(going_on, dice.choice([0, 1, 1, 2, 3]))
        harmless = dice.sample(sorted(set(HARMLESS) - {"warnings"}), dice.randint(0, 3))
        # Harmless ones first: they use the same names, and one that came later would free what must be found.
        parts = [HARMLESS[what] for what in harmless] + [HARMFUL[what][0] for what in harmful]
        report = worker.prove("\n".join(parts))
        assert report["shared"] == (not harmful), (seed, harmful, harmless, report)
        assert report["neighbour"] == [], (seed, harmful, harmless, report)


_CHILDREN = """
import ctypes, json, os, random, secrets, sys
import numpy, numpy.random, uuid_utils
from rustic_ai.k8s.runtime import child
from rustic_ai.k8s.runtime.proof.inert import settle
from rustic_ai.k8s.runtime.sibling import fork_sibling

ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: this process plays agent-host
if os.fork() == 0:
    # All of them have been used: what they remember, every child inherits.
    numpy.random.random(), uuid_utils.uuid4(), random.random(), numpy.dot(numpy.ones((300, 300)), numpy.ones((300, 300)))
    settle()
    assert len(os.listdir("/proc/self/task")) == 1, "the threads of the linear algebra end at a fork"
    def work():
        child.become("child", "", {}, {})
        mine = [float(numpy.random.random()), str(uuid_utils.uuid4()), random.random(), secrets.token_hex(8)]
        assert numpy.dot(numpy.ones((300, 300)), numpy.ones((300, 300)))[0, 0] == 300
        os.write(1, (json.dumps(mine) + "\\n").encode())
        os._exit(0)
    for _ in range(8):
        fork_sibling(work)
    os._exit(0)
while True:
    try:
        _pid, status = os.wait()
    except ChildProcessError:
        break
    assert status == 0, status
"""


def test_children_differ_in_every_source_of_randomness_that_they_inherit() -> None:
    done = subprocess.run([sys.executable, "-c", _CHILDREN], capture_output=True, text=True, timeout=120)
    drawn = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(drawn) == 8, done.stderr
    for values in zip(*drawn, strict=True):
        assert len(set(values)) == 8, values
