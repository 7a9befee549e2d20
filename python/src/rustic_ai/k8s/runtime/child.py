"""What a freshly forked child does before it is anybody: leave everything of the zygote behind."""

import ctypes
import os
import random
import select
import signal
import sys
import time

from setproctitle import setproctitle

from rustic_ai.k8s.runtime.confinement import be_dumpable
from rustic_ai.k8s.runtime.host import null_stdin

# Where the child finds its socket to the host.
CONTROL = 3
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
# By how much sooner than its host an agent is killed when memory runs out; the scale ends at 1000.
_SOONER = 500
_libc = ctypes.CDLL(None, use_errno=True)


def detach(descriptors: list[int], host_pid: int) -> None:
    """Makes this process a session of its own with its own three descriptors, that ends when the host ends.

    Closes nothing but what it was given: a zygote that has anything else open does not fork.

    Args:
        descriptors: Socket to the host, standard output, standard error.
        host_pid: Process id of the host.
    """
    os.setsid()
    # Until now the files of this process in /proc were root's.
    be_dumpable(True)
    _yield_as_a_session()
    _die_sooner()
    for descriptor, place in zip(descriptors, (CONTROL, 1, 2), strict=True):
        if descriptor != place:
            os.dup2(descriptor, place)
    for descriptor in descriptors:
        if descriptor != CONTROL:
            os.close(descriptor)
    null_stdin()
    _die_with(host_pid)


def become(title: str, directory: str, environment: dict[str, str], sets: dict[str, str | None]) -> None:
    """Takes on a title, a working directory, an environment, and randomness of its own.

    Args:
        title: What `ps` shows.
        directory: Working directory.
        environment: The whole environment.
        sets: What modules that it inherits have set in the environment, and would have set in this one; None: removed.
    """
    os.umask(0o022)
    os.environ.clear()
    os.environ.update(environment)
    for name, value in sets.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if directory:
        os.chdir(directory)
    time.tzset()
    random.seed()
    if numpy := sys.modules.get("numpy.random"):
        numpy.seed()
    entitle(title)


def entitle(title: str) -> None:
    """Sets what `ps` shows: the command line, and as the short name its first word."""
    setproctitle(title)
    _libc.prctl(_PR_SET_NAME, title.partition(" ")[0].encode()[:15], 0, 0, 0)


def _yield_as_a_session() -> None:
    """Applies our niceness to our new session. Outside a container's cgroup Linux may schedule by sessions, each with a
    niceness of its own (sched(7), "The autogroup feature"), and ours alone would count for nothing."""
    try:
        with open("/proc/self/autogroup", "w") as autogroup:
            autogroup.write(str(os.nice(0)))
    except OSError:
        # Not in use, or changed too often by somebody who is not root: then all have equal shares.
        pass


def _die_sooner() -> None:
    """Has the kernel kill this process before its host when memory runs out."""
    try:
        with open("/proc/self/oom_score_adj", "r+") as adjustment:
            score = min(int(adjustment.read()) + _SOONER, 1000)
            adjustment.seek(0)
            adjustment.write(str(score))
    except OSError:
        pass


def _die_with(host_pid: int) -> None:
    """Ends this process when the host ends.

    The signal is tied to the parent at hand, so it is asked for only when the host is the parent; before that it would
    be the middle process's end that kills us. The host sends the first message after it got our process id, which it
    gets after the middle process is gone: so when there is something to read, the host is the parent.
    """
    select.select([CONTROL], [], [])
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != host_pid:
        # The host died meanwhile; nobody would signal us any more.
        os._exit(1)
