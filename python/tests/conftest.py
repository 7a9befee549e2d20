"""Fixtures for tests against a running stack.

`make test-python` starts the stack and sets `RUSTIC_ENGINE_ADDRESS` and `RUSTIC_REDIS_URL`.
"""

from collections.abc import Callable, Iterator
import os
import time
from urllib.parse import urlparse
import uuid

import pytest

from rustic_ai.core.messaging import MessagingConfig
from rustic_ai.k8s.execution import K8sExecutionEngine

# Only a bound: nothing waits longer than it must.
PATIENCE = 120.0


@pytest.fixture(scope="session")
def redis_url() -> str:
    """URL of the stack's Redis."""
    url = os.environ.get("RUSTIC_REDIS_URL")
    if not url:
        pytest.fail("these tests need a running stack; use `make test-python`")
    return url


@pytest.fixture
def messaging(redis_url: str) -> MessagingConfig:
    """Messaging over the stack's Redis."""
    url = urlparse(redis_url)
    return MessagingConfig(
        backend_module="rustic_ai.redis.messaging.backend",
        backend_class="RedisMessagingBackend",
        backend_config={"redis_client": {"host": url.hostname, "port": url.port}},
    )


@pytest.fixture
def org_id() -> str:
    """Organization of the test guilds."""
    return "test-org"


@pytest.fixture
def guild_id() -> str:
    """A guild of this test's own."""
    return f"guild-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def engine(guild_id: str, org_id: str, redis_url: str) -> Iterator[K8sExecutionEngine]:
    """An engine whose agents are stopped with the test."""
    engine = K8sExecutionEngine(guild_id, org_id)
    yield engine
    engine.shutdown()


def wait_until[T](what: str, look: Callable[[], T | None]) -> T:
    """Waits until `look` gives something; on timeout says what was waited for and what was seen last."""
    give_up = time.monotonic() + PATIENCE
    while not (seen := look()):
        assert time.monotonic() < give_up, f"waited for {what}, last saw {seen!r}"
        time.sleep(0.05)
    return seen
