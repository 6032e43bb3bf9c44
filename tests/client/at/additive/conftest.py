"""A database with hot rows on each engine, looked at past AT; and the coordinator for tests, with the mode `add`."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest

import troth.at
from troth.client.drivers.pymysql_places import parse_url
from troth.client.settings import ClientSettings
from troth.wire.seata.enums import ResultCode, TransactionExceptionCode
from troth.wire.seata.lock_wait import MODE_NOT_KNOWN, NOT_NEGOTIATED, LockWaitRequest, ModeRegisterRequest, RowLockMode
from troth.wire.seata.messages import BranchRegisterRequest, BranchRegisterResponse, GlobalLockQueryRequest, Message

FLOORS = {"stock.count": 0, "stock.sold": None, "account.balance": Decimal("-10.50")}

TABLES = (
    "CREATE TABLE stock (id INTEGER PRIMARY KEY, name VARCHAR(20), count INTEGER, sold INTEGER, other INTEGER)",
    "INSERT INTO stock VALUES (1, 'cup', 10, 0, 0), (2, 'pot', 0, 0, 0), (3, 'pan', NULL, 0, 0)",
    "CREATE TABLE account (a VARCHAR(20), b INTEGER, balance {money}, PRIMARY KEY (a, b))",
    "INSERT INTO account VALUES ('x', 1, 100), ('x', 2, 0), ('y,;', 1, 50)",
)


class HotDatabase:
    """`run` and `rows` go past AT; `connect` is under AT, with hot columns. Placeholders are `?` for all."""

    def __init__(self, engine: str, url: str) -> None:
        self.engine = engine
        self.url = url
        self._opened: list[Any] = []
        troth.at.init(url, hot_rows=True)
        for statement in TABLES:
            self.run(statement.replace("{money}", "INTEGER" if engine == "sqlite" else "DECIMAL(12,2)"))

    def sql(self, text: str) -> str:
        return text if self.engine == "sqlite" else text.replace("?", "%s")

    def _plain(self) -> Any:
        if self.engine == "sqlite":
            return closing(sqlite3.connect(self.url.removeprefix("sqlite:///"), isolation_level=None, timeout=30))
        if self.engine == "postgres":
            return closing(psycopg.connect(self.url, autocommit=True))
        return closing(pymysql.connect(**parse_url(self.url).arguments({"autocommit": True})))

    def run(self, sql: str) -> None:
        with self._plain() as raw, closing(raw.cursor()) as cursor:
            cursor.execute(sql)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self._plain() as raw, closing(raw.cursor()) as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def one(self, sql: str) -> Any:
        ((value,),) = self.rows(sql)
        return value

    def count(self, row: int = 1) -> Any:
        return self.one(f"SELECT count FROM stock WHERE id = {row}")

    def contexts(self) -> list[str]:
        return [row[0].partition("&")[0] for row in self.rows("SELECT context FROM undo_log ORDER BY branch_id")]

    def reserved(self) -> list[tuple[Any, ...]]:
        found = self.rows("SELECT row_key, column_name, amount FROM troth_hot_rows ORDER BY row_key, amount")
        return [(key, column, Decimal(amount)) for key, column, amount in found]

    def is_clean(self) -> bool:
        """Nothing is left of any branch."""
        return not self.reserved() and not self.rows("SELECT 1 FROM undo_log")

    def connect(self, client: Any, *, autocommit: bool = True, **options: Any) -> Any:
        options.setdefault("additive", FLOORS)
        if self.engine == "sqlite":
            options |= {"isolation_level": None if autocommit else "DEFERRED", "check_same_thread": False}
            options.setdefault("timeout", 30)
        else:
            options["autocommit"] = autocommit
        connection = troth.at.connect(self.url, client=client, **options)
        self._opened.append(connection)
        return connection

    def execute(self, connection: Any, sql: str, *parameters: object) -> Any:
        cursor = connection.cursor()
        cursor.execute(self.sql(sql), parameters)
        return cursor

    def close(self) -> None:
        for connection in self._opened:
            connection.close()


class SharingCoordinator:
    """Made of the coordinator for tests: rows in mode `add` are held by several."""

    def __init__(self, coordinator: Any) -> None:
        self._plain = coordinator
        self.settings = ClientSettings(lock_retry_interval_s=0.001, lock_retry_times=3)
        self.shares_rows = True
        self.registered: list[BranchRegisterRequest] = []
        self._adders: dict[tuple[str, str, str], list[str]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    async def atell(self, message: Message) -> Message:
        return self.tell(message)

    def tell(self, message: Message) -> Message:
        if isinstance(message, LockWaitRequest):
            return NOT_NEGOTIATED
        if not isinstance(message, BranchRegisterRequest) or isinstance(message, GlobalLockQueryRequest):
            return self._plain.tell(message)
        adds = isinstance(message, ModeRegisterRequest) and message.lock_mode is RowLockMode.ADD
        if adds and not self.shares_rows:
            return MODE_NOT_KNOWN
        self.registered.append(message)
        assert message.xid is not None
        for row in self._plain._rows(message):
            others = [xid for xid in self._adders.get(row, []) if xid != message.xid]
            holder = self._plain.locks.get(row, message.xid)
            if holder != message.xid or (others and not adds):
                code = TransactionExceptionCode.LockKeyConflict
                return BranchRegisterResponse(ResultCode.Failed, f"{row} is held", code)
        if not adds:
            return self._plain.tell(message)
        for row in self._plain._rows(message):
            self._adders.setdefault(row, []).append(message.xid)
        branch_id = 1000 + len(self._plain.branches)
        self._plain.branches.append((branch_id, message))
        return BranchRegisterResponse(branch_id=branch_id)

    def _forget(self, xid: str) -> None:
        for holders in self._adders.values():
            holders[:] = [one for one in holders if one != xid]

    def commit(self, xid: str) -> None:
        self._plain.commit(xid)
        self._forget(xid)

    def rollback(self, xid: str) -> None:
        self._plain.rollback(xid)
        self._forget(xid)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "everywhere: on the database servers in `make test`, too")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Everything on each engine; what is not marked `everywhere`, on the servers in soak only."""
    marked = {mark.name for mark in metafunc.definition.iter_markers()}
    if "engine" not in metafunc.fixturenames or _names_engines(metafunc):
        return
    on_servers = [pytest.mark.engines] if "everywhere" in marked else [pytest.mark.engines, pytest.mark.soak]
    servers = [pytest.param(name, marks=on_servers) for name in ("postgres", "mariadb")]
    metafunc.parametrize("engine", ["sqlite", *servers], indirect=True)


def _names_engines(metafunc: pytest.Metafunc) -> bool:
    named = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    return "engine" in named


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def hot(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[HotDatabase]:
    if engine == "sqlite":
        url = f"sqlite:///{tmp_path}/hot.db"
        with closing(sqlite3.connect(tmp_path / "hot.db")) as raw:
            raw.execute("PRAGMA journal_mode = WAL")
    else:
        new: Callable[[], str] = request.getfixturevalue(f"new_{engine}_database")
        url = new() + ("?ssl_disabled=true" if engine == "mariadb" else "")
    made = HotDatabase(engine, url)
    yield made
    made.close()


@pytest.fixture
def sharing(coordinator: Any) -> SharingCoordinator:
    return SharingCoordinator(coordinator)
