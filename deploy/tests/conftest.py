"""Lets the tests import the modules beside them, wherever pytest is started."""

from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).parent))
