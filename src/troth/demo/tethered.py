"""A child process that ends when its parent does, even if that is killed: the parent holds its standard input open.

`python -m troth.demo.tethered ARGUMENTS` runs `python -m troth ARGUMENTS` that way.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

_GRACE_S = 8.0
"""How long a process may take to end by itself."""


def tether() -> None:
    """From now on, the end of standard input ends this process: politely first, then at once."""
    threading.Thread(target=_wait_for_the_end, args=(sys.stdin.fileno(),), name="tether", daemon=True).start()


def _wait_for_the_end(parent: int) -> None:
    while os.read(parent, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os._exit(1)


def main() -> None:
    """Run `python -m troth` with our arguments, tethered."""
    tether()
    runpy.run_module("troth", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
