"""What `pubsub_poll_sleep_time` does to messages: from `publish` to the handler in another connection."""

import random
import threading
import time

from rustic_ai.core.messaging.core.message import AgentTag, Message
from rustic_ai.core.utils import GemstoneGenerator
from rustic_ai.redis.messaging.backend import RedisMessagingBackend
from rustic_ai.core.utils.priority import Priority
from rustic_bench import figures, workload


def _latency(poll_seconds: float, count: int) -> list[float]:
    host, port = workload.redis_address()
    config = {"host": host, "port": port, "pubsub_poll_sleep_time": poll_seconds}
    listener, sender = (RedisMessagingBackend(dict(config)) for _ in range(2))
    namespace, topic = f"bench-{random.random()}", "topic"
    arrived, at = threading.Event(), [0.0]

    def handle(_: Message) -> None:
        at[0] = time.perf_counter()
        arrived.set()

    listener.subscribe(topic, handler=handle)
    ids, seconds = GemstoneGenerator(1), []
    for _ in range(count):
        # The listener is deep in its wait when the message comes.
        time.sleep(random.uniform(0.005, 0.05))
        arrived.clear()
        message = Message(
            id_obj=ids.get_id(Priority.NORMAL), topics=topic, sender=AgentTag(id="bench"), payload={"content": "hello"}, format="bench"
        )
        message.topic_published_to = topic
        began = time.perf_counter()
        sender.store_message(namespace, topic, message)
        if not arrived.wait(5):
            raise RuntimeError("a message did not arrive")
        seconds.append(at[0] - began)
    listener.cleanup()
    sender.cleanup()
    return seconds


def messages(count: int) -> list[dict]:
    return [
        figures.times(f"publish to handler, pubsub_poll_sleep_time {poll:g} s", _latency(poll, count))
        for poll in (0.01, 1.0)
    ]


if __name__ == "__main__":
    figures.carry_out({"messages": messages})
