"""What ends the undo of a branch until somebody has looked."""

from __future__ import annotations


class Frozen(Exception):
    """The branch can not be undone by itself; somebody has to look. The text says which row, and why."""
