"""Fixtures that every part of the tests may use."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

pytest_plugins = ("fixtures_coordinator", "fixtures_servers")
