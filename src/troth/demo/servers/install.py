"""Installs what the private servers are made of, by apt, as root only; no service of the machine is started by it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from troth.demo.servers.plan import Kind, Product, ServersMissing
from troth.demo.servers.private import PRODUCTS

POLICY: Final = Path("/usr/sbin/policy-rc.d")
"""Debian asks this file before it starts a service; exit status 101 forbids it."""
_FORBID: Final = "#!/bin/sh\nexit 101\n"
_WAIT: Final = ("-o", "DPkg::Lock::Timeout=300")
_QUIET: Final = ("--yes", "--quiet=2", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0", *_WAIT)


def missing(kinds: Sequence[Kind]) -> list[Product]:
    """Those of `kinds` whose programs are not installed."""
    return [PRODUCTS[kind] for kind in kinds if not _is_there(PRODUCTS[kind])]


def command(products: Sequence[Product]) -> str:
    """What an administrator of a Debian or Ubuntu machine would type."""
    return f"apt-get install --no-install-recommends {' '.join(product.package for product in products)}"


def install(kinds: Sequence[Kind]) -> None:
    """Install what is missing of `kinds`; does nothing, and asks nobody, if all is there.

    Raises:
        ServersMissing: it can not be installed from here; the text has the command to type.
    """
    wanted = missing(kinds)
    if not wanted:
        return
    names = " and ".join(product.kind for product in wanted)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ServersMissing(f"{names} not installed. As root: {command(wanted)}")
    packages = [product.package for product in wanted]
    with _no_service_starts():
        _apt("update", "--quiet=2", *_WAIT)
        _apt("install", *_QUIET, *packages)
    still = missing(kinds)
    if still:
        raise ServersMissing(f"{command(still)} went well, but its programs are not where they were looked for")


def _is_there(product: Product) -> bool:
    try:
        product.programs()
    except ServersMissing:
        return False
    return True


def _apt(*arguments: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        ("apt-get", *arguments), env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ServersMissing(f"apt-get {arguments[0]} failed: {(done.stderr or done.stdout).strip()[-2000:]}")


@contextmanager
def _no_service_starts() -> Iterator[None]:
    if POLICY.exists():
        # Somebody has decided already; a container forbids it too.
        yield
        return
    POLICY.write_text(_FORBID)
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
