"""A database on a real MariaDB with an undo table, looked at past AT."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pymysql
import pytest

import troth.at
from troth.client.drivers.pymysql_places import parse_url

TABLES = (
    """CREATE TABLE account (id BIGINT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(40) NULL UNIQUE,
       balance DECIMAL(12,2) NOT NULL DEFAULT 0, note TEXT)""",
    "INSERT INTO account (name, balance, note) VALUES ('ann', 100, 'x'), ('bob', 50.5, NULL), (NULL, -1, '')",
    "CREATE TABLE pair (a BIGINT, b VARCHAR(20), v INT, PRIMARY KEY (a, b))",
    "INSERT INTO pair VALUES (1, 'x', 10), (1, 'y', 20), (2, 'x', 30)",
)


class Database:
    """`run` and `rows` go past AT; `connect` is under AT."""

    def __init__(self, url: str, coordinator: Any) -> None:
        self.url = f"{url}?ssl_disabled=true"
        self.place = parse_url(self.url)
        self.coordinator = coordinator
        self._opened: list[Any] = []
        troth.at.init(self.url)

    def plain(self, **options: Any) -> Any:
        return pymysql.connect(**self.place.arguments({"autocommit": True, **options}))

    def connect(self, query: str = "", **options: Any) -> Any:
        connection = troth.at.connect(self.url + query, client=self.coordinator, **options)
        self._opened.append(connection)
        return connection

    def run(self, *statements: str) -> None:
        with closing(self.plain()) as raw, raw.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def rows(self, sql: str, *parameters: object) -> list[tuple[object, ...]]:
        with closing(self.plain()) as raw, raw.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return list(cursor.fetchall())

    def dump(self) -> dict[str, list[tuple[object, ...]]]:
        """Every row of every table but the undo log, as hexadecimal texts where that shows more."""
        found = {}
        for (name,) in self.rows("SHOW TABLES"):
            if name != "undo_log":
                types = self.rows(
                    "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = DATABASE() "
                    "AND table_name = %s ORDER BY ordinal_position",
                    name,
                )
                shown = ", ".join(
                    f"`{column}` * 1e0" if kind == "float" else f"HEX(`{column}`), {_text_of(column, kind)}"
                    for column, kind in types
                )
                found[str(name)] = sorted(self.rows(f"SELECT {shown} FROM `{name}`"), key=repr)
        return found

    def undo_rows(self) -> list[tuple[object, ...]]:
        return self.rows("SELECT xid, branch_id, log_status, context, rollback_info FROM undo_log ORDER BY branch_id")

    def close(self) -> None:
        for connection in self._opened:
            if connection.open:
                connection.close()


def _text_of(column: object, kind: object) -> str:
    return "NULL" if kind in ("point", "geometry") else f"CAST(`{column}` AS CHAR)"


@pytest.fixture
def new_database(new_mariadb_database: Callable[[], str], coordinator: Any) -> Iterator[Callable[[], Database]]:
    made: list[Database] = []

    def new() -> Database:
        made.append(Database(new_mariadb_database(), coordinator))
        return made[-1]

    yield new
    for database in made:
        database.close()


@pytest.fixture
def database(new_database: Callable[[], Database]) -> Database:
    made = new_database()
    made.run(*TABLES)
    return made
