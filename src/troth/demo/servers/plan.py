"""What a sitter has to do for one kind of server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Kind(StrEnum):
    """The servers that can be had."""

    POSTGRES = "postgres"
    MARIADB = "mariadb"


class ServersMissing(RuntimeError):
    """Programs of a server are not installed, or do not start; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Account:
    """Who may log in to a private server, and where it listens."""

    host: str
    port: int
    user: str
    password: str


@dataclass(frozen=True, slots=True)
class Plan:
    """How to make and start one server in `data`, and when to believe that it serves."""

    prepare: tuple[tuple[str, ...], ...]
    """Commands that must succeed first, in this order."""
    serve: tuple[str, ...]
    ready_file: str
    """A file that holds the line `ready` once the server serves; empty: it greets whoever connects."""
    stop_signal: int


@dataclass(frozen=True, slots=True)
class Product:
    """One kind of server: its programs, its package, and how it is spoken to."""

    kind: Kind
    package: str
    system_user: str
    """Who runs the server where we are root, since none of them runs as root."""
    scheme: str
    first_database: str
    programs: Callable[[], dict[str, str]]
    """The paths of its programs, by name. Raises ServersMissing."""
    plan: Callable[[Path, Account], Plan]
    shell: Callable[[Account, str, str], tuple[tuple[str, ...], dict[str, str]]]
    """The command and its environment that run a statement in a database."""
