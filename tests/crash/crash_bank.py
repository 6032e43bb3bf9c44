"""A bank's database, and what a plain connection sees in it: SQLite files and PostgreSQL."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg

import troth

ACCOUNTS = 40
AT_START = 100

_TABLES = (
    "CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)",
    # AT knows nothing of these: the reservations of a TCC service, and a switch that makes local commits fail
    "CREATE TABLE reservation (xid TEXT NOT NULL, branch_id BIGINT NOT NULL, state TEXT NOT NULL,"
    " PRIMARY KEY (xid, branch_id))",
    "CREATE TABLE refusal (reason TEXT)",
)
_SQLITE_TRIGGER = (
    "CREATE TRIGGER refuse BEFORE INSERT ON undo_log"
    " WHEN NEW.log_status = 0 AND EXISTS (SELECT 1 FROM refusal)"
    " BEGIN SELECT RAISE(ABORT, 'the local transaction is refused'); END"
)
_POSTGRES_TRIGGER = (
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " IF NEW.log_status = 0 AND EXISTS (SELECT 1 FROM refusal)"
    " THEN RAISE EXCEPTION 'the local transaction is refused'; END IF; RETURN NEW; END $$",
    "CREATE TRIGGER refuse BEFORE INSERT ON undo_log FOR EACH ROW EXECUTE FUNCTION refuse()",
)


@dataclass(frozen=True)
class Bank:
    """One database. `rows` and `execute` go past AT; parameters are written as `?`."""

    url: str

    @property
    def is_sqlite(self) -> bool:
        return self.url.startswith("sqlite")

    def make(self) -> Bank:
        """Its tables, the undo table, the accounts."""
        if self.is_sqlite:
            with closing(self._connect()) as raw:
                raw.execute("PRAGMA journal_mode = WAL")
        troth.at.init(self.url)
        for sql in (*_TABLES, *((_SQLITE_TRIGGER,) if self.is_sqlite else _POSTGRES_TRIGGER)):
            self.execute(sql)
        for number in range(ACCOUNTS):
            self.execute("INSERT INTO account VALUES (?, ?)", number, AT_START)
        return self

    def execute(self, sql: str, *values: object) -> int:
        """One statement that commits by itself; how many rows it changed."""
        with closing(self._connect()) as raw:
            return int(raw.execute(self._spelled(sql), values).rowcount)

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """What a query gives."""
        with closing(self._connect()) as raw:
            return list(raw.execute(self._spelled(sql), values).fetchall())

    def balances(self) -> dict[int, int]:
        return dict(self.rows("SELECT id, balance FROM account"))

    def undo_rows(self) -> list[tuple[str, int]]:
        """(xid, log_status); 0 is an undo row, 1 a guard that keeps a late phase one out."""
        return [(str(xid), int(status)) for xid, status in self.rows("SELECT xid, log_status FROM undo_log")]

    def reservations(self) -> dict[str, str]:
        return dict(self.rows("SELECT xid, state FROM reservation"))

    def spelled(self, sql: str) -> str:
        """`sql` with the driver's own parameter marks, for connections under AT."""
        return self._spelled(sql)

    def _connect(self) -> Any:
        if self.is_sqlite:
            return sqlite3.connect(self.url.removeprefix("sqlite:///"), timeout=30, isolation_level=None)
        return psycopg.connect(self.url, autocommit=True)

    def _spelled(self, sql: str) -> str:
        return sql if self.is_sqlite else sql.replace("?", "%s")
