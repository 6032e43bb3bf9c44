"""What the demos of single transfers share: a directory and processes for each, gone whatever happens."""

from __future__ import annotations

import atexit
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from troth.demo.processes import Family


@contextmanager
def leaving_on_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does: by an exception, so that all processes end with it."""
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def trial(prefix: str) -> Iterator[tuple[Path, Family]]:
    """A fresh directory, and processes that have their logs in it."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    family = Family(directory)
    atexit.register(family.stop)
    try:
        yield directory, family
    finally:
        family.stop()
        atexit.unregister(family.stop)
        shutil.rmtree(directory, ignore_errors=True)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)
