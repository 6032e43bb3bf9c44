"""A private MariaDB: a binary log of rows, and every commit is on disk, as a server of business data has it."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Final

from troth.demo.servers.plan import Account, Kind, Plan, Product, ServersMissing

_PROGRAMS: Final = ("mariadbd", "mariadb-install-db", "mariadb")
_PLACES: Final = "/usr/sbin:/usr/local/sbin:/usr/libexec"
_SETTINGS: Final = (
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    # Relative: a path of a socket may have 107 bytes; temporary directories may have more.
    "--socket=mariadb.sock",
    "--pid-file=mariadb.pid",
    "--server-id=1",
    "--log-bin=binlog",
    "--binlog-format=ROW",
    "--innodb-flush-log-at-trx-commit=1",
    "--innodb-buffer-pool-size=64M",
    "--character-set-server=utf8mb4",
    "--max-connections=300",
)


def _programs() -> dict[str, str]:
    found = {name: shutil.which(name) or shutil.which(name, path=_PLACES) for name in _PROGRAMS}
    missing = [name for name, where in found.items() if where is None]
    if missing:
        raise ServersMissing(f"MariaDB is not installed ({', '.join(missing)} not found)")
    return {name: where for name, where in found.items() if where is not None}


def _plan(directory: Path, account: Account) -> Plan:
    programs, data = _programs(), directory / "data"
    first = directory / "first.sql"
    first.write_text(
        f"CREATE OR REPLACE USER '{account.user}'@'127.0.0.1' IDENTIFIED BY '{account.password}';"
        f"\nGRANT ALL ON *.* TO '{account.user}'@'127.0.0.1' WITH GRANT OPTION;"
        "\nDELETE FROM mysql.global_priv WHERE User IN ('root', '');"
        "\nFLUSH PRIVILEGES;\n"
    )
    first.chmod(0o644)  # the directory is closed to all but the server's user
    make = (programs["mariadb-install-db"], "--no-defaults", f"--datadir={data}", "--skip-test-db")
    # A server that starts removes what it takes for its own leftovers there, so /tmp is not for several of them.
    temporary = f"--tmpdir={directory}"
    options = (temporary, "--auth-root-authentication-method=normal", "--skip-name-resolve")
    return Plan(
        prepare=((*make, *options),),
        serve=(
            programs["mariadbd"],
            "--no-defaults",
            f"--datadir={data}",
            f"--port={account.port}",
            f"--init-file={first}",
            temporary,
            *_SETTINGS,
        ),
        ready_file="",
        # At once: what is in the directory is thrown away, so there is nothing to write back.
        stop_signal=signal.SIGKILL,
    )


def _shell(account: Account, database: str, sql: str) -> tuple[tuple[str, ...], dict[str, str]]:
    where = (f"--host={account.host}", f"--port={account.port}", "--protocol=TCP", f"--user={account.user}")
    options = ("--no-defaults", *where, "--batch", "--skip-column-names", f"--database={database}")
    return (_programs()["mariadb"], *options, f"--execute={sql}"), {"MYSQL_PWD": account.password}


MARIADB: Final = Product(
    kind=Kind.MARIADB,
    package="mariadb-server",
    system_user="mysql",
    scheme="mysql",
    first_database="mysql",
    programs=_programs,
    plan=_plan,
    shell=_shell,
)
