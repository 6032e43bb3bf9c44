"""Three real databases under a real coordinator in this process, spoken to in one dialect of SQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pymysql
import pytest

import troth
from troth.client.drivers.pymysql_places import parse_url

ENGINES = ("sqlite", "postgresql", "mysql")
TABLES = (
    "CREATE TABLE account (id INTEGER PRIMARY KEY, owner VARCHAR(20) NOT NULL, balance BIGINT NOT NULL)",
    "CREATE TABLE note (id INTEGER PRIMARY KEY, body VARCHAR(40))",
)


class Shop:
    """`run` goes past AT; `connect` is under it. Texts have `%s` for parameters."""

    def __init__(self, engine: str, url: str, client: troth.Client) -> None:
        self.engine = engine
        self.url = f"{url}?ssl_disabled=true" if engine == "mysql" else url
        self.client = client
        self._opened: list[Any] = []
        troth.at.init(self.url)
        for table in TABLES:
            self.run(table)

    def sql(self, text: str) -> str:
        return text.replace("%s", "?") if self.engine == "sqlite" else text

    def plain(self) -> Any:
        if self.engine == "sqlite":
            return sqlite3.connect(self.url.removeprefix("sqlite:///"), isolation_level=None)
        if self.engine == "postgresql":
            return psycopg.connect(self.url, autocommit=True)
        return pymysql.connect(**parse_url(self.url).arguments({"autocommit": True}))

    def run(self, text: str, *parameters: object) -> list[tuple[Any, ...]]:
        with closing(self.plain()) as raw, closing(raw.cursor()) as cursor:
            cursor.execute(self.sql(text), parameters)
            return list(cursor.fetchall()) if cursor.description else []

    def connect(self, *, autocommit: bool = False) -> Connected:
        match self.engine:
            case "sqlite":
                options: dict[str, Any] = {"check_same_thread": False, "timeout": 20}
                if autocommit:
                    options["isolation_level"] = None
            case _:
                options = {"autocommit": autocommit}
        made = Connected(self, troth.at.connect(self.url, client=self.client, **options))
        self._opened.append(made)
        return made

    def reset(self) -> None:
        self.run("DELETE FROM account")
        self.run("DELETE FROM note")
        self.run("INSERT INTO account VALUES (1, 'ann', 100), (2, 'bob', 50), (3, 'cid', 0)")

    def balance(self, account: int = 1) -> int:
        ((balance,),) = self.run("SELECT balance FROM account WHERE id = %s", account)
        return int(balance)

    def close(self) -> None:
        while self._opened:
            self._opened.pop().raw.close()


class Connected:
    """A connection under AT."""

    def __init__(self, shop: Shop, raw: Any) -> None:
        self.shop = shop
        self.raw = raw

    def run(self, text: str, *parameters: object) -> list[tuple[Any, ...]]:
        with closing(self.raw.cursor()) as cursor:
            cursor.execute(self.shop.sql(text), parameters)
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []

    def balance(self, account: int = 1, tail: str = "") -> int:
        ((balance,),) = self.run(f"SELECT balance FROM account WHERE id = %s{tail}", account)
        return int(balance)

    def set(self, balance: int, account: int = 1) -> None:
        self.run("UPDATE account SET balance = %s WHERE id = %s", balance, account)

    def commit(self) -> None:
        self.raw.commit()

    def rollback(self) -> None:
        self.raw.rollback()


@pytest.fixture(scope="module")
def tc() -> Iterator[troth.Client]:
    """A coordinator in this process. A held row is waited for some 60 ms at most."""
    with troth.embedded(
        lock_retry_times=3,
        lock_retry_interval_s=0.02,
        lock__hot_wait="20ms",
        lock__cold_wait="60ms",
        retry__min="50ms",
        retry__max="100ms",
    ) as client:
        yield client


@pytest.fixture(scope="module")
def new_shop(
    tc: troth.Client, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Shop]]:
    made: dict[str, Shop] = {}

    def new(engine: str) -> Shop:
        if engine not in made:
            match engine:
                case "sqlite":
                    url = f"sqlite:///{tmp_path_factory.mktemp('shop') / 'shop.db'}"
                case "postgresql":
                    url = request.getfixturevalue("new_postgres_database")()
                case _:
                    url = request.getfixturevalue("new_mariadb_database")()
            made[engine] = Shop(engine, url, tc)
        made[engine].reset()
        return made[engine]

    yield new
    for shop in made.values():
        shop.close()


@pytest.fixture(params=ENGINES)
def shop(request: pytest.FixtureRequest, new_shop: Callable[[str], Shop]) -> Iterator[Shop]:
    made = new_shop(request.param)
    yield made
    made.close()
