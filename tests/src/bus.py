"""Says and reads messages for a test: one JSON object in, one JSON value out, line by line."""

import json
import sys

from rustic_ai.core.messaging import AgentTag, Message, MessageConstants, Priority
from rustic_ai.core.utils import GemstoneGenerator
from rustic_ai.redis.messaging.backend import RedisMessagingBackend

bus = RedisMessagingBackend({"host": "127.0.0.1", "port": int(sys.argv[1])})
ids = GemstoneGenerator(254)
for line in sys.stdin:
    asked = json.loads(line)
    topic = f"{asked['guild']}:{asked['topic']}"
    if "say" in asked:
        message = Message(
            topics=asked["topic"],
            sender=AgentTag(id="test", name="test"),
            format=MessageConstants.RAW_JSON_FORMAT,
            payload=asked["say"],
            id_obj=ids.get_id(Priority.NORMAL),
        )
        message.topic_published_to = asked["topic"]
        bus.store_message(asked["guild"], topic, message)
        answer = message.id
    else:
        answer = [message.payload for message in bus.get_messages_for_topic(topic)]
    print(json.dumps(answer), flush=True)
