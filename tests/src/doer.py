"""Agents that do what messages ask for, and answer with the message's number."""

import argparse
import asyncio
import atexit
import ctypes
import os
import re
import signal
import sys
import threading
import time

from rustic_ai.core.guild import Agent, agent
from rustic_ai.core.guild.agent import ProcessContext
from rustic_ai.core.utils import JsonDict


async def _cancelled() -> None:
    asyncio.current_task().cancel()
    await asyncio.sleep(60)


def _end_listener() -> None:
    """Ends the thread that handles messages outside of any handler, as libraries do that interrupt threads."""
    me = threading.get_ident()

    def interrupt() -> None:
        while any(frame.f_code.co_name == "hear" for frame in _frames(me)):
            time.sleep(0.001)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(me), ctypes.py_object(SystemExit))

    threading.Thread(target=interrupt, daemon=True).start()


def _frames(thread: int):
    frame = sys._current_frames().get(thread)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _do(what: str, seconds: float, path: str) -> None:
    match what:
        case "await":
            while not os.path.exists(path):
                time.sleep(0.01)
        case "exit":
            sys.exit(3)
        case "usage":
            argparse.ArgumentParser(prog="tool").parse_args(["--unknown"])
        case "interrupt":
            raise KeyboardInterrupt("by hand")
        case "cancel":
            asyncio.run(_cancelled())
        case "close":
            raise GeneratorExit
        case "group":
            raise BaseExceptionGroup("several", [SystemExit(1), ValueError("x")])
        case "fail":
            raise ValueError("no good")
        case "hard":
            os._exit(5)
        case "crash":
            ctypes.string_at(0)
        case "sleep":
            time.sleep(seconds)
        case "spin":
            # Holds the interpreter's lock, in C, for longer than anybody waits.
            re.match(r"(a+)+$", "a" * 60 + "b")
        case "deafen":
            _end_listener()
        case "fork":
            if os.fork() == 0:
                sys.exit(9)
            os.wait()


class Doer(Agent):
    """Does what a message asks for."""

    def __init__(self) -> None:
        """Answers on the default topic."""
        self._route_to_default_topic = True

    @agent.processor(JsonDict, lambda _, message: "n" in message.payload)
    def hear(self, ctx: ProcessContext[JsonDict]) -> None:
        """Does, then answers."""
        print(f"HEARD {ctx.payload['n']}", flush=True)
        _do(ctx.payload.get("do", ""), ctx.payload.get("seconds", 0), ctx.payload.get("path", ""))
        ctx.send_dict({"answers": ctx.payload["n"], "pid": os.getpid()})


class Careful(Doer):
    """Has something to do when it ends."""

    def __init__(self) -> None:
        """Registers for its end."""
        super().__init__()
        atexit.register(lambda: print("ATEXIT RAN", flush=True))
        atexit.register(sys.stdout.write, "UNFLUSHED\n")
        signal.signal(signal.SIGTERM, self.terminated)

    def terminated(self, number: int, _frame: object) -> None:
        """Handles SIGTERM, and raises what many do."""
        main = threading.current_thread() is threading.main_thread()
        print(f"OWN HANDLER GOT {number} IN MAIN {main}", flush=True)
        sys.exit(0)


class Looper(Doer):
    """Has asyncio handle SIGTERM."""

    def __init__(self) -> None:
        """Runs a loop in a thread."""
        super().__init__()
        loop = asyncio.new_event_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: print("LOOP GOT SIGTERM", flush=True))
        threading.Thread(target=loop.run_forever, daemon=True).start()


class Slow(Doer):
    """Takes long over what it has registered."""

    def __init__(self) -> None:
        """Would never end by itself."""
        super().__init__()
        atexit.register(time.sleep, 1000)
        threading.Thread(target=time.sleep, args=(1000,)).start()


class Reader(Agent):
    """Reads dead letters."""

    def __init__(self) -> None:
        """Answers on the default topic."""
        self._route_to_default_topic = True

    @agent.processor(JsonDict, lambda _, message: "original_message_id" in message.payload)
    def read(self, ctx: ProcessContext[JsonDict]) -> None:
        """Sends on what it has read."""
        letter = ctx.payload
        ctx.send_dict({"dead": letter["original_message_id"], "why": letter["error_message"]})
