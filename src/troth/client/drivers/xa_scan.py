"""The recovery scan: which branches are prepared in a database, whoever has done it, and how one is ended by hand.

On PostgreSQL: those with our prefix, in this database, of this user (nobody else may end them). XA ids of MySQL and
MariaDB say neither, so all of Seata's on the server are found, those of Java clients too.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from troth.client.drivers.resource import NoCoordinator
from troth.client.drivers.running import Executor, run
from troth.client.flow import Flow, query
from troth.client.modes.xa import GID_PREFIX, mysql_xid, parse_gid, parse_recovered, postgres_gid, quoted

_PREPARED = (
    "SELECT gid, extract(epoch FROM now() - prepared)::bigint FROM pg_prepared_xacts "
    f"WHERE database = current_database() AND owner = current_user AND starts_with(gid, '{GID_PREFIX}') "
    "ORDER BY prepared"
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A branch that is prepared. age_s: None where the database does not say."""

    xid: str
    branch_id: int
    age_s: int | None


def scan(url: str) -> list[Prepared]:
    """What is prepared in the database at `url`. Raises ValueError: none that has XA; and the driver's errors."""
    if not url.startswith(("postgres", "mysql", "mariadb")):
        raise ValueError("XA works on PostgreSQL, MySQL and MariaDB: write postgresql://…, mysql://… or mariadb://…")
    with _opened(url) as executor:
        flow = _on_postgres() if _is_postgres(url) else _on_mysql()
        return run(flow, executor, NoCoordinator())


def end(url: str, branch: Prepared, *, commit: bool) -> None:
    """Commit or roll back one of them. Raises the driver's errors."""
    verb = "COMMIT" if commit else "ROLLBACK"
    if _is_postgres(url):
        sql = f"{verb} PREPARED {quoted(postgres_gid(branch.xid, branch.branch_id))}"
    else:
        sql = f"XA {verb} {mysql_xid(branch.xid, branch.branch_id)}"
    with _opened(url) as executor:
        run(query(sql), executor, NoCoordinator())


def _is_postgres(url: str) -> bool:
    return url.startswith("postgres")


def _opened(url: str) -> AbstractContextManager[Executor]:
    # Only the driver that is needed has to be installed.
    name = "psycopg_place" if _is_postgres(url) else "pymysql_places"
    module: Any = import_module(f"troth.client.drivers.{name}")
    place = module.parse_url(url)
    opened: AbstractContextManager[Executor] = module.opened(place if _is_postgres(url) else place.arguments({}))
    return opened


def _on_postgres() -> Flow[list[Prepared]]:
    found = yield from query(_PREPARED)
    names = [(parse_gid(str(gid)), int(str(age_s))) for gid, age_s in found.rows]
    return [Prepared(*name, age_s) for name, age_s in names if name is not None]


def _on_mysql() -> Flow[list[Prepared]]:
    found = yield from query("XA RECOVER")
    names = [parse_recovered(row[0], row[1], row[3]) for row in found.rows]
    return [Prepared(*name, None) for name in names if name is not None]
