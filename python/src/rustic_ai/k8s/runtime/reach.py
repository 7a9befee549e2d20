"""Whether the message bus can be reached when an agent starts: whoever waits for it in vain learns where it is and why not.

The clients of Redis and NATS try for up to two minutes, and some say nothing then. So a thread watches the moment in which the
first connection is made. It costs nothing more unless that takes long; then it tries for itself, step by step, and what it
finds is the reason for which the agent does not start.

```text
messaging is built ──▶ the bus has answered within a second ──▶ over
        │                             │
        │                             └▶ tried anew: it answers ──▶ over: whoever is slow, it is not the bus
        └▶ raises: reported with the address   └▶ it refuses, or has not answered in all the time there is: reported
```
"""

import asyncio
from collections.abc import Callable
import contextlib
import socket
import ssl
import threading
import time
from typing import Any, Protocol
from urllib.parse import urlsplit

from rustic_ai.core.messaging import MessagingConfig
from rustic_ai.k8s.runtime.host import describe

REDIS, NATS = "rustic_ai.redis.messaging.backend", "rustic_ai.nats.messaging.backend"
# Seconds for everything, before the bus is tried anew, for one step of a try, and between two tries.
_LONGEST, _USUAL, _STEP, _PAUSE = 4.0, 1.0, 2.0, 0.1
# How Rustic AI begins what it makes of the errors of a backend.
_WRAPPED = "Error initializing storage backend"
_TLS = "does one side expect TLS and the other not?"
_SILENT = f"it accepts connections and does not answer; {_TLS}"
# What redis-py makes of a Redis that demands a password, and what it means.
_NO_PASSWORD = ("HELLO must be called with the client already authenticated", "it demands a password, and is given none")


class Bus(Protocol):
    """A kind of message bus.

    Attributes:
        address: Where it is, without secrets.
    """

    address: str

    def attempt(self, step: Callable[[str], None]) -> None:
        """Connects, says who we are, and waits for an answer.

        Args:
            step: Takes what is done, in words that "takes too long" may follow.

        Raises:
            Exception: What is in the way.
        """

    def is_final(self, error: Exception) -> bool:
        """Whether it makes no sense to try again soon."""


class Redis:
    """One Redis, or the first node of a cluster."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """Takes the settings that rusticai-redis is given."""
        self._settings = settings
        self._host, self._port = str(settings.get("host", "")), int(settings.get("port", 0))
        self.address = f"{'rediss' if settings.get('ssl') else 'redis'}://{self._host}:{self._port}"

    def attempt(self, step: Callable[[str], None]) -> None:
        """See `Bus`."""
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        _connect(self._host, self._port, step)
        step(f"its answer; {_TLS}")
        names = ("username", "password")
        if self._settings.get("ssl"):
            names = (*names, "ssl_certfile", "ssl_keyfile", "ssl_ca_certs")
        kind = redis.SSLConnection if self._settings.get("ssl") else redis.Connection
        connection = kind(
            host=self._host,
            port=self._port,
            socket_connect_timeout=_STEP,
            socket_timeout=_STEP,
            retry=Retry(NoBackoff(), 0),
            **{name: self._settings[name] for name in names if self._settings.get(name)},
        )
        try:
            connection.connect()
            connection.send_command("PING", check_health=False)
            with contextlib.suppress(redis.exceptions.NoPermissionError):
                connection.read_response()
        except redis.exceptions.TimeoutError as error:
            raise TimeoutError(_SILENT) from error
        except redis.exceptions.ConnectionError as error:
            if type(error) is redis.exceptions.ConnectionError and not _verifies(error):
                raise ConnectionError(f"{error}; {_TLS}") from error
            raise
        finally:
            connection.disconnect()

    def is_final(self, error: Exception) -> bool:
        """See `Bus`."""
        import redis

        return _verifies(error) or isinstance(error, redis.exceptions.AuthenticationError | redis.exceptions.ResponseError)


class Nats:
    """The servers of a NATS."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """Takes the settings that rusticai-nats is given."""
        self._settings = settings
        servers = settings.get("servers") or ["nats://localhost:4222"]
        self._servers = [server if "://" in server else f"nats://{server}" for server in map(str, servers)]
        self.address = ", ".join(_without_secrets(server) for server in self._servers)

    def attempt(self, step: Callable[[str], None]) -> None:
        """See `Bus`."""
        if len(self._servers) == 1:
            url = urlsplit(self._servers[0])
            _connect(url.hostname or "", url.port or 4222, step)
        step(f"its answer; {_TLS}")
        asyncio.run(self._greet())

    async def _greet(self) -> None:
        import nats

        errors: list[Exception] = []

        async def note(error: Exception) -> None:
            errors.append(error)

        who = {name: self._settings[name] for name in ("user", "password", "token") if self._settings.get(name)}
        if self._settings.get("tls"):
            who["tls"] = ssl.create_default_context()
        try:
            client = await nats.connect(
                servers=self._servers,
                allow_reconnect=False,
                connect_timeout=_STEP,
                max_reconnect_attempts=1,
                reconnect_time_wait=_PAUSE,
                error_cb=note,
                **who,
            )
        except Exception as error:
            last = errors[-1] if isinstance(error, nats.errors.NoServersError) and errors else error
            raise last if str(last) else TimeoutError(_SILENT) from error
        await client.close()

    def is_final(self, error: Exception) -> bool:
        """See `Bus`."""
        return _verifies(error) or "authorization" in str(error).lower()


def bus_of(config: MessagingConfig) -> Bus | None:
    """The bus of a configuration; None: of a kind that is not watched."""
    kinds: dict[str, tuple[str, Callable[[dict[str, Any]], Bus]]] = {
        REDIS: ("redis_client", Redis),
        NATS: ("nats_client", Nats),
    }
    if config.backend_module not in kinds:
        return None
    name, kind = kinds[config.backend_module]
    settings = config.backend_config.get(name)
    with contextlib.suppress(ValueError, TypeError):
        # What the backend cannot read either, it says itself.
        if isinstance(settings, dict):
            return kind(settings)
    return None


class Reach:
    """Watches the first connection of one agent."""

    def __init__(self, config: MessagingConfig, fail: Callable[[str], Any]) -> None:
        """Watches nothing yet.

        Args:
            config: Of the agent's messaging.
            fail: Takes why the bus cannot be reached, in a thread of its own, while the main thread may wait for it; ends the process.
        """
        self._bus, self._fail = bus_of(config), fail
        self._over = threading.Event()
        # What the try at hand waits for; what the last one found, and whether that is final.
        self._step, self._final = "", False
        self._error: Exception | None = None

    def begin(self) -> None:
        """The bus is about to be connected to."""
        if self._bus is not None:
            threading.Thread(target=self._watch, args=(self._bus,), name="bus-reach", daemon=True).start()

    def greet(self, backend: Any) -> None:
        """Has a backend connect that would do so only later. The connection stays in its pool, for what comes next."""
        if isinstance(self._bus, Redis):
            import redis

            with contextlib.suppress(redis.exceptions.NoPermissionError):
                backend.r.ping()

    def end(self) -> bool:
        """The bus has answered, or is not waited for any longer.

        Returns:
            Whether it was watched until now.
        """
        was_on = not self._over.is_set()
        self._over.set()
        return was_on

    def explain(self, error: Exception) -> str:
        """Says with the address why messaging could not be built."""
        while str(error).startswith(_WRAPPED) and isinstance(error.__context__, Exception):
            error = error.__context__
        return self._words(error if str(error) or self._error is None else self._error)

    def _watch(self, bus: Bus) -> None:
        began = time.monotonic()
        if self._over.wait(_USUAL):
            return
        trial = threading.Thread(target=self._try, args=(bus,), name="bus-trial", daemon=True)
        trial.start()
        while trial.is_alive() and not self._final and time.monotonic() - began < _LONGEST:
            if self._over.wait(_PAUSE / 2):
                return
        if (trial.is_alive() or self._final) and self.end():
            self._fail(self._words(self._error))

    def _try(self, bus: Bus) -> None:
        """Tries until the bus answers."""
        while not self._over.is_set():
            try:
                bus.attempt(self._now)
                return
            except Exception as error:
                self._error = error
                self._final = bus.is_final(error)
            if self._over.wait(_PAUSE):
                return

    def _now(self, step: str) -> None:
        self._step = step

    def _words(self, error: Exception | None) -> str:
        where = f"the message bus at {self._bus.address}" if self._bus else "the message bus"
        if error is None:
            return f"{where} cannot be reached: it takes too long to get {self._step}"
        if _NO_PASSWORD[0] in str(error):
            return f"{where} cannot be used: {_NO_PASSWORD[1]}"
        return f"{where} cannot be used: {describe(error) if str(error) else f'{type(error).__name__}, without a message'}"


def _connect(host: str, port: int, step: Callable[[str], None]) -> None:
    """Looks whether something listens.

    Raises:
        OSError: Why not, with the address.
    """
    step(f"the address of {host!r}")
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise ConnectionError(f"the name {host!r} is not known: {error.strerror}") from error
    step(f"a connection to {host}:{port}")
    failed: OSError | None = None
    for family, kind, protocol, _, address in addresses:
        with socket.socket(family, kind, protocol) as tried:
            tried.settimeout(_STEP)
            try:
                tried.connect(address)
                return
            except TimeoutError:
                failed = TimeoutError(f"nothing answers at {address[0]} port {port}")
            except OSError as error:
                failed = ConnectionError(f"connecting to {address[0]} port {port}: {error.strerror}")
    raise failed or ConnectionError(f"{host!r} has no address")


def _verifies(error: BaseException | None) -> bool:
    """Whether it is about a certificate."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(error):
            return True
        error = error.__cause__
    return False


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
