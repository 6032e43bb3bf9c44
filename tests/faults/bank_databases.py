"""The three databases of the bank: made and read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pymysql
from bank_settings import ACCOUNTS, AT_START

import troth

_TABLES = (
    "CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)",
    "CREATE TABLE entry (id VARCHAR(80) PRIMARY KEY, account INTEGER NOT NULL, delta INTEGER NOT NULL)",
    "INSERT INTO account (id, balance) VALUES " + ", ".join(f"({n}, {AT_START})" for n in range(1, ACCOUNTS + 1)),
)
_OPEN_TRANSACTIONS = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND pid <> pg_backend_pid() AND xact_start IS NOT NULL",
    "mysql": "SELECT count(*) FROM information_schema.innodb_trx",
}


class Database:
    """One bank's database, read with the plain driver: troth is not trusted here."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.kind = url.partition(":")[0]

    def create(self) -> None:
        with self._connection() as connection:
            cursor = connection.cursor()
            if self.kind == "sqlite":
                cursor.execute("PRAGMA journal_mode = WAL")
            for statement in _TABLES:
                cursor.execute(statement)
            connection.commit()
        troth.at.init(self.url)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self._connection() as connection:
            cursor = connection.cursor()
            cursor.execute(sql)
            return list(cursor.fetchall())

    def open_transactions(self) -> int:
        """How many are under way; SQLite has at most one writer, and a free file is none."""
        if self.kind == "sqlite":
            with self._connection() as connection:
                try:
                    connection.execute("PRAGMA busy_timeout = 0")
                    connection.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError:
                    return 1
            return 0
        ((count,),) = self.rows(_OPEN_TRANSACTIONS[self.kind])
        return int(count)

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        if self.kind == "sqlite":
            opened: Any = sqlite3.connect(self.url.removeprefix("sqlite:///"), timeout=5)
        elif self.kind == "postgresql":
            opened = psycopg.connect(self.url, connect_timeout=5)
        else:
            parts = urlsplit(self.url)
            opened = pymysql.connect(
                host=parts.hostname,
                port=parts.port or 0,
                user=parts.username,
                password=parts.password or "",
                database=parts.path[1:],
                connect_timeout=5,
            )
        with closing(opened):
            yield opened
