"""Fixtures that every part of the tests may use."""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

# A run in the background is started with SIGINT ignored, and its children would inherit that: they must hear Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Where this is set, each of the hundreds of processes that tests start compiles all that it imports: 1 s each.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

pytest_plugins = ("fixtures_coordinator", "fixtures_servers", "lanes")
