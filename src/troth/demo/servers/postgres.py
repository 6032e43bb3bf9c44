"""A private PostgreSQL: logical WAL and prepared transactions are on, durability is as a server has it by default."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path
from typing import Final

from troth.demo.servers.plan import Account, Kind, Plan, Product, ServersMissing

_DIRECTORY: Final = "TROTH_POSTGRES_BIN"
"""Environment variable: a directory of programs that goes before those of the system (another version, say)."""
_PROGRAMS: Final = ("initdb", "postgres", "psql")
_SETTINGS: Final = (
    "listen_addresses=127.0.0.1",
    # A path of a socket may have 107 bytes; temporary directories may have more.
    "unix_socket_directories=",
    "wal_level=logical",
    "max_prepared_transactions=64",
    "max_connections=200",
    "logging_collector=off",
    "log_statement=none",
)


def _programs() -> dict[str, str]:
    # Debian keeps the server's programs out of PATH, one directory a version.
    directories = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    path = ":".join([*filter(None, [os.environ.get(_DIRECTORY)]), *map(str, directories)]) or None
    found = {name: shutil.which(name, path=path) or shutil.which(name) for name in _PROGRAMS}
    missing = [name for name, where in found.items() if where is None]
    if missing:
        raise ServersMissing(f"PostgreSQL is not installed ({', '.join(missing)} not found)")
    return {name: where for name, where in found.items() if where is not None}


def _version(directory: Path) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", directory.parent.name)))


def _plan(directory: Path, account: Account) -> Plan:
    programs, data = _programs(), directory / "data"
    password_file = directory / "password"
    password_file.write_text(account.password)
    password_file.chmod(0o644)  # the directory is closed to all but the server's user
    make = (programs["initdb"], "--pgdata", str(data), "--username", account.user, "--pwfile", str(password_file))
    options = ("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions")
    settings = tuple(part for setting in (*_SETTINGS, f"port={account.port}") for part in ("-c", setting))
    return Plan(
        prepare=((*make, *options),),
        serve=(programs["postgres"], "-D", str(data), *settings),
        ready_file=str(data / "postmaster.pid"),
        # Immediate: what is in the directory is thrown away.
        stop_signal=signal.SIGQUIT,
    )


def _shell(account: Account, database: str, sql: str) -> tuple[tuple[str, ...], dict[str, str]]:
    where = ("--host", account.host, "--port", str(account.port), "--username", account.user, "--dbname", database)
    options = ("--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1")
    return (_programs()["psql"], *where, *options, "--command", sql), {"PGPASSWORD": account.password}


POSTGRES: Final = Product(
    kind=Kind.POSTGRES,
    package="postgresql",
    system_user="postgres",
    scheme="postgresql",
    first_database="postgres",
    programs=_programs,
    plan=_plan,
    shell=_shell,
)
