"""An agent that serves: its handlers under guard, its threads watched, and its end in order."""

from collections.abc import Callable
import os

from rustic_ai.k8s.runtime.agent import K8sAgentWrapper, shut_down
from rustic_ai.k8s.runtime.document import LaunchDocument
from rustic_ai.k8s.runtime.ending import Ending
from rustic_ai.k8s.runtime.handling import Guard
from rustic_ai.k8s.runtime.host import HostSocket
from rustic_ai.k8s.runtime.sigterm import Sigterm
from rustic_ai.k8s.runtime.state import State
from rustic_ai.k8s.runtime.watch import Watch


class Service:
    """One agent, from before it is initialised until it has ended. Only the main thread may use it."""

    def __init__(self, wrapper: K8sAgentWrapper, document: LaunchDocument, host: HostSocket) -> None:
        """Puts the agent under guard; it is not initialised yet."""
        self._wrapper = wrapper
        self._ending = Ending(host)
        self._guard = Guard(State(document.state), document.skip, host, self._ending)
        os.register_at_fork(after_in_child=self._guard.forget)
        wrapper.guard = self._guard

    def serve(self, sigterm: Sigterm, every: float) -> None:
        """Returns when SIGTERM has come. Ends the process if nothing handles messages any more.

        Args:
            sigterm: What is waited for.
            every: Seconds between two looks at the threads that handle.
        """
        backend = self._wrapper.messaging.backend
        self._guard.settle()
        watch = Watch(backend, self._wrapper.built)
        if hasattr(backend, "set_failure_callback"):
            # rusticai-redis gives up: else it would send SIGTERM to this process, as if somebody had stopped the agent.
            backend.set_failure_callback(lambda error: self._ending.die("the message bus is lost:", error))

        def look() -> None:
            self._guard.watch(watch.loops())
            self._guard.look()
            if why := watch.look():
                self._ending.die(why)

        self._guard.watch(watch.loops())
        try:
            sigterm.wait(look, every)
        except BaseException as error:
            # A handler has raised it here, as `signal.raise_signal` and `_thread.interrupt_main` do, or somebody has.
            self._ending.die("the main thread was interrupted by", error)

    def end(self, pass_on: Callable[[], None], seconds: float) -> None:
        """Ends the agent in order: what is at work finishes, what comes stays for the next life.

        Args:
            pass_on: Notifies the agent that SIGTERM came.
            seconds: For unsubscribing.
        """
        self._guard.stop()
        pass_on()
        self._guard.finish()
        shut_down(self._wrapper, seconds)
