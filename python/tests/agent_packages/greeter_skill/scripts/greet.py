"""Greets whoever the arguments name."""

import json
import os

print("greetings to", json.loads(os.environ["SKILL_ARGS"])["input_text"])
