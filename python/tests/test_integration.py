"""Rustic AI's own integration test for execution engines, unmodified, on real processes."""

import pytest

from rustic_ai.core.messaging import MessagingConfig
from rustic_ai.testing.execution.base_test_integration import IntegrationTestABC


class TestK8sIntegration(IntegrationTestABC):
    """What every execution engine must do."""

    @pytest.fixture
    def messaging(self, redis_url: str, guild_id: str) -> MessagingConfig:
        """Messaging that reaches other processes."""
        host, port = redis_url.removeprefix("redis://").split("/")[0].split(":")
        return MessagingConfig(
            backend_module="rustic_ai.redis.messaging.backend",
            backend_class="RedisMessagingBackend",
            backend_config={"redis_client": {"host": host, "port": int(port)}},
        )

    @pytest.fixture
    def execution_engine(self) -> str:
        """The engine under test, by name, as guilds name it."""
        return "rustic_ai.k8s.execution.K8sExecutionEngine"
