"""Private PostgreSQL and MariaDB servers: in a temporary directory, on free loopback ports, gone when this ends.

    python scripts/servers.py up [postgres] [mariadb]        prints JSON with URLs, stays until Ctrl-C
    python scripts/servers.py install [postgres] [mariadb]   by apt, as root; otherwise prints the command

Without names: both.
"""

import json
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from troth.demo.servers.install import install
from troth.demo.servers.plan import Kind, ServersMissing
from troth.demo.servers.private import start


def up(kinds: Sequence[Kind]) -> None:
    """Start servers, say where they are, and wait for Ctrl-C or SIGTERM."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    servers = start(*kinds)
    try:
        said = {server.product.kind: {"url": server.url, "directory": str(server.directory)} for server in servers}
        print(json.dumps(said), flush=True)
        signal.pause()
    finally:
        for server in servers:
            server.stop()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str]) -> int:
    commands = {"up": up, "install": install}
    names = arguments[1:] or [kind.value for kind in Kind]
    if not arguments or arguments[0] not in commands or not set(names) <= {kind.value for kind in Kind}:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        commands[arguments[0]]([Kind(name) for name in names])
    except ServersMissing as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
