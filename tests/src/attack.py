"""Tries to reach what an agent must not reach. Prints one line of JSON: what it tried, and what of that it reached.

What it attacks stands in the environment, as JSON: pids of the victim and of the host, paths, the password of the registry.
"""

import ctypes
import json
import os
import socket
import struct
import sys

_libc = ctypes.CDLL(None, use_errno=True)


def _call(number, *arguments):
    result = _libc.syscall(ctypes.c_long(number), *[a if isinstance(a, ctypes._Pointer) else ctypes.c_long(a) for a in arguments])
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _connect(address):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(address)


def _read(path):
    with open(path, "rb") as file:
        return file.read(64)


def _append(path):
    with open(path, "ab") as file:
        file.write(b"x")


def _in_own_directory(make, path):
    name = f"mine-{os.getpid()}-{make.__name__}"
    make(path, name)
    return _read(name)


def _inherited():
    """A descriptor of somebody else's: anything but pipes, sockets and the null device that is not our own."""
    for number in range(3, 256):
        try:
            what = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if what.startswith("/") and not what.startswith((os.getcwd(), os.path.dirname(os.getcwd()), "/dev/", "/proc/")):
            raise AssertionError(what)
    raise PermissionError("nothing")


def attempts(target):
    """What is tried: names and functions that must fail."""
    victim, host = target["victim"], target["host"]
    secret, victims, work = target["secret"], os.path.dirname(target["secret"]), target["work_dir"]
    import resource
    import signal

    tries = {
        "read a file": lambda: _read(secret),
        "write a file": lambda: _append(secret),
        "truncate a file": lambda: os.truncate(secret, 0),
        "list its directory": lambda: os.listdir(victims),
        "list all directories of agents": lambda: os.listdir(os.path.dirname(os.path.dirname(os.getcwd()))),
        "list the host's directory": lambda: os.listdir(work),
        "make a file in its directory": lambda: open(os.path.join(victims, "new"), "x"),
        "remove its file": lambda: os.unlink(secret),
        "move its file": lambda: os.rename(secret, "moved"),
        "read its file through a link": lambda: _in_own_directory(os.symlink, secret),
        "read its file through a hard link": lambda: _in_own_directory(os.link, secret),
        "remove its directory": lambda: os.rmdir(victims),
        "run a program of its directory": lambda: os.posix_spawn(target["program"], ["x"], {}),
        "read its environment": lambda: _read(f"/proc/{victim}/environ"),
        "read its memory": lambda: _read(f"/proc/{victim}/mem"),
        "write its memory": lambda: _append(f"/proc/{victim}/mem"),
        "read its maps": lambda: _read(f"/proc/{victim}/maps"),
        "look at its descriptors": lambda: [os.readlink(f"/proc/{victim}/fd/{n}") for n in range(3)],
        "open its descriptor": lambda: _read(f"/proc/{victim}/fd/1"),
        "look through its root": lambda: os.listdir(f"/proc/{victim}/root"),
        "look into its directory": lambda: os.listdir(f"/proc/{victim}/cwd"),
        "change its chance to be killed": lambda: _append(f"/proc/{victim}/oom_score_adj"),
        "signal it": lambda: os.kill(victim, 0),
        "stop it": lambda: os.kill(victim, signal.SIGSTOP),
        "signal its group": lambda: os.killpg(victim, 0),
        "signal it by descriptor": lambda: signal.pidfd_send_signal(os.pidfd_open(victim), 0),
        "trace it": lambda: _libc.ptrace(16, victim, 0, 0) == 0 or _deny(),
        "read its memory from outside": lambda: _call(310, victim, 0, 0, 0, 0, 0),
        "read its calls": lambda: _read(f"/proc/{victim}/syscall"),
        "take its descriptor": lambda: _call(438, os.pidfd_open(victim), 1, 0),
        "change its limits": lambda: resource.prlimit(victim, resource.RLIMIT_NOFILE, (9, 9)),
        "change its priority": lambda: os.setpriority(os.PRIO_PROCESS, victim, 19),
        "change the priority of all": lambda: os.setpriority(os.PRIO_USER, 0, 19),
        "change its processors": lambda: os.sched_setaffinity(victim, {0}),
        "change its scheduler": lambda: os.sched_setscheduler(victim, os.SCHED_IDLE, os.sched_param(0)),
        "connect to its abstract socket": lambda: _connect("\0" + target["abstract"]),
        "list shared memory": lambda: os.listdir("/dev/shm"),
        "shared memory by number": lambda: _call(29, 4711, 4096, 0o1600),
        "a message queue by name": lambda: _libc.mq_open(b"/rustic", os.O_RDWR | os.O_CREAT, 0o600, None) >= 0 or _deny(),
        "read the host's environment": lambda: _read(f"/proc/{host}/environ"),
        "read the host's memory": lambda: _read(f"/proc/{host}/mem"),
        "look at the host's descriptors": lambda: [os.readlink(f"/proc/{host}/fd/{n}") for n in range(3)],
        "signal the host": lambda: os.kill(host, 0),
        "change the host's priority": lambda: os.setpriority(os.PRIO_PROCESS, host, 19),
        "read the host's password": lambda: target["password"].encode() in _whole(f"/proc/{host}/cmdline") or _deny(),
        "write the host's lock": lambda: _append(target["lock"]),
        "remove the host's lock": lambda: os.unlink(target["lock"]),
        "change code that all import": lambda: _append(target["library"]),
        "write the system's temporary folder": lambda: open(f"/tmp/attack-{os.getpid()}", "x"),
        "look into a home": lambda: os.listdir(target["home"]),
        "use what was inherited": _inherited,
        "a name space of its own": lambda: os.unshare(os.CLONE_NEWUSER),
        "another root": lambda: os.chroot("."),
        "mount": lambda: _call(165, 0, 0, 0, 0, 0),
        "a raw socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM),
        "list all sockets": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4),
        "talk past the filter": lambda: _call(425, 8, 0),
        "a program in the kernel": lambda: _call(321, 0, 0, 0),
        "keys of the user": lambda: _call(250, 0, -3, 1),
        "type into the terminal": lambda: __import__("fcntl").ioctl(0, 0x5412, b"x"),
    }
    if target["level"] == "strict":
        tries |= {
            "run a program of the system": lambda: os.posix_spawn("/bin/ls", ["ls"], {}),
            "run a program from memory": lambda: os.memfd_create("x"),
            "listen": lambda: socket.create_server(("127.0.0.1", 0)),
            "connect to a port": lambda: socket.create_connection(("127.0.0.1", target["port"]), 1),
            "connect by first data": lambda: socket.socket().sendto(b"x", socket.MSG_FASTOPEN, ("127.0.0.1", target["port"])),
            "connect by another protocol": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262),
            "make shared memory": lambda: open("/dev/shm/x", "x"),
        }
    return tries


def _deny():
    raise PermissionError("as it should be")


def _whole(path):
    with open(path, "rb") as file:
        return file.read()


def attack():
    """Tries everything. Prints what was reached, and why the rest was not."""
    tried, reached, refused = 0, {}, {}
    for name, attempt in attempts(json.loads(os.environ["ATTACK"])).items():
        tried += 1
        try:
            reached[name] = repr(attempt())
        except AssertionError as error:
            reached[name] = repr(error)
        except OSError as error:
            refused[name] = str(error)
    print("ATTACKED", json.dumps({"tried": tried, "reached": reached, "refused": refused}), flush=True)


if __name__ == "__main__":
    attack()
    __import__("time").sleep(1000)
