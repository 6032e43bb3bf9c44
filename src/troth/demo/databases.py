"""The three databases of the demo: made and read with plain sqlite3, so what is shown is what really stands in
them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import troth
from troth.demo.scenario import AT_START, COMMODITY, USER, Rows


class Databases:
    """account.db, stock.db and order.db in one directory."""

    def __init__(self, directory: Path) -> None:
        self.account = directory / "account.db"
        self.stock = directory / "stock.db"
        self.order = directory / "order.db"

    @property
    def paths(self) -> dict[str, Path]:
        """The file of each service."""
        return {"account": self.account, "stock": self.stock, "order": self.order}

    def create(self) -> None:
        """Make the tables, the undo tables and the first rows."""
        for path, table in (
            (self.account, "account_tbl (id INTEGER PRIMARY KEY, user_id TEXT NOT NULL, money INTEGER NOT NULL)"),
            (self.stock, "stock_tbl (id INTEGER PRIMARY KEY, commodity_code TEXT NOT NULL, count INTEGER NOT NULL)"),
            (
                self.order,
                "order_tbl (id INTEGER PRIMARY KEY, user_id TEXT NOT NULL, commodity_code TEXT NOT NULL,"
                " count INTEGER NOT NULL, money INTEGER NOT NULL)",
            ),
        ):
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute(f"CREATE TABLE {table}")
            troth.at.init(sqlite_url(path))
        self.reset()

    def reset(self) -> None:
        """Put the rows back to those of the start."""
        _write(self.account, "DELETE FROM account_tbl")
        _write(self.account, "INSERT INTO account_tbl (id, user_id, money) VALUES (1, ?, ?)", USER, AT_START.balance)
        _write(self.stock, "DELETE FROM stock_tbl")
        _write(self.stock, "INSERT INTO stock_tbl VALUES (1, ?, ?)", COMMODITY, AT_START.stock)
        _write(self.order, "DELETE FROM order_tbl")

    def read(self) -> Rows:
        """What stands in the databases now."""
        return Rows(
            balance=_number(self.account, "SELECT money FROM account_tbl WHERE user_id = ?", USER),
            stock=_number(self.stock, "SELECT count FROM stock_tbl WHERE commodity_code = ?", COMMODITY),
            orders=_number(self.order, "SELECT count(*) FROM order_tbl"),
            undo_logs=sum(_number(path, "SELECT count(*) FROM undo_log") for path in self.paths.values()),
        )


def sqlite_url(path: Path) -> str:
    """The URL of a database file, as SQLAlchemy and `troth.at.connect` spell it."""
    return f"sqlite:///{path.absolute()}"


def _write(path: Path, statement: str, *values: str | int) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement, values)


def _number(path: Path, query: str, *values: str | int) -> int:
    with closing(sqlite3.connect(path)) as connection:
        row = connection.execute(query, values).fetchone()
    if row is None:
        raise LookupError(f"{path.name} lost its row: {query}")
    return int(row[0])
