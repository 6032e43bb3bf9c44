"""A purchase over every mode at once: AT, TCC and XA branches on SQLite, PostgreSQL and MariaDB in one transaction.

`test_mix.py` plays it with a coordinator in its own process; `test_mix_crashes.py` runs this file as a program, beside
a coordinator that dies.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import aiosqlite
import psycopg
import pymysql

import troth
import troth.xa
from troth.client.drivers import fence_table
from troth.client.drivers.pymysql_places import parse_url as parse_mysql_url

AT_START = 100
AFTERWARDS = {"at-sqlite": 93, "at-mariadb": 93, "tcc-sqlite": 93, "xa-postgres": 93, "xa-mariadb": 93}
"""Every part gives 7."""
UNTOUCHED = dict.fromkeys(AFTERWARDS, AT_START)


class NotWanted(Exception):
    """The purchase is to be undone."""


@dataclass(frozen=True)
class Shop:
    """The databases. `look` goes past troth."""

    sqlite: str
    postgres: str
    mariadb: str

    def look(self, url: str, sql: str) -> list[tuple[Any, ...]]:
        if url.startswith("sqlite"):
            raw: Any = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30, isolation_level=None)
        elif url.startswith("postgresql"):
            raw = psycopg.connect(url, autocommit=True)
        else:
            raw = pymysql.connect(**{**parse_mysql_url(url).arguments({}), "autocommit": True})
        with closing(raw):
            cursor = raw.cursor()
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []

    def _tables(self) -> dict[str, tuple[str, ...]]:
        return {self.sqlite: ("stock", "seat"), self.postgres: ("bill",), self.mariadb: ("points", "bonus")}

    def make(self) -> Shop:
        for url, tables in (
            (self.sqlite, ("stock", "seat")),
            (self.postgres, ("bill",)),
            (self.mariadb, ("points", "bonus")),
        ):
            for table in tables:
                extra = ", frozen INTEGER NOT NULL DEFAULT 0" if table == "seat" else ""
                self.look(url, f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, n INTEGER NOT NULL{extra})")
                self.look(url, f"INSERT INTO {table} (id, n) VALUES (1, {AT_START})")
        self.look(self.sqlite, "CREATE TABLE flight (key TEXT PRIMARY KEY, what TEXT)")
        self.look(self.sqlite, "PRAGMA journal_mode = WAL")
        troth.at.init(self.sqlite)
        troth.at.init(self.mariadb)
        fence_table.init(self.sqlite)
        return self

    def reset(self) -> None:
        """As `make` has left the rows."""
        for url, tables in self._tables().items():
            for table in tables:
                self.look(url, f"UPDATE {table} SET n = {AT_START}")
        self.look(self.sqlite, "DELETE FROM flight")

    def rows(self) -> dict[str, int]:
        """What everybody sees now."""
        places = {
            "at-sqlite": (self.sqlite, "stock"),
            "at-mariadb": (self.mariadb, "points"),
            "tcc-sqlite": (self.sqlite, "seat"),
            "xa-postgres": (self.postgres, "bill"),
            "xa-mariadb": (self.mariadb, "bonus"),
        }
        return {name: int(self.look(url, f"SELECT n FROM {table}")[0][0]) for name, (url, table) in places.items()}

    def flights(self) -> list[str]:
        """What the saga's own service has done."""
        return [str(what) for (what,) in self.look(self.sqlite, "SELECT what FROM flight ORDER BY rowid")]

    def left_behind(self) -> list[object]:
        """What an ended transaction must not leave: undo rows, prepared branches, frozen seats."""
        undo = "SELECT xid FROM undo_log WHERE log_status = 0"
        return [
            *self.look(self.sqlite, undo),
            *self.look(self.mariadb, undo),
            *self.look(self.postgres, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"),
            *self.look(self.mariadb, "XA RECOVER"),
            *self.look(self.sqlite, "SELECT id FROM seat WHERE frozen <> 0"),
        ]

    def seats(self) -> Any:
        """The TCC action."""

        @troth.tcc(
            name="mix-seat", connection=lambda: sqlite3.connect(self.sqlite.removeprefix("sqlite:///"), timeout=30)
        )
        class Seat:
            def try_(self, ctx: troth.ActionContext, n: int) -> None:
                ctx.connection.execute("UPDATE seat SET n = n - ?, frozen = frozen + ?", (n, n))

            def confirm(self, ctx: troth.ActionContext) -> None:
                ctx.connection.execute("UPDATE seat SET frozen = frozen - ?", (ctx["n"],))

            def cancel(self, ctx: troth.ActionContext) -> None:
                ctx.connection.execute("UPDATE seat SET n = n + ?, frozen = frozen - ?", (ctx["n"], ctx["n"]))

        return Seat()


class Purchase:
    """Its connections and its action; phase two is served as long as it lives."""

    def __init__(self, shop: Shop) -> None:
        self.seat = shop.seats()
        self._at = {url: troth.at.connect(url) for url in (shop.sqlite, shop.mariadb)}
        self._xa = {url: troth.xa.connect(url) for url in (shop.postgres, shop.mariadb)}
        self.shop = shop

    def work(self) -> None:
        """All parts, in an order in which no mode stands alone at either end."""
        self._give(self._at[self.shop.sqlite], "stock")
        self._give(self._xa[self.shop.postgres], "bill")
        self.seat.try_(7)
        self._give(self._xa[self.shop.mariadb], "bonus")
        self._give(self._at[self.shop.mariadb], "points")

    def _give(self, connection: Any, table: str) -> None:
        try:
            connection.cursor().execute(f"UPDATE {table} SET n = n - 7 WHERE id = 1")
            connection.commit()
        except BaseException:
            connection.rollback()
            raise

    def forget_to_commit(self) -> None:
        """One more change, and no commit behind it."""
        self._at[self.shop.mariadb].cursor().execute("UPDATE points SET n = 0 WHERE id = 1")

    def close(self) -> None:
        for connection in (*self._at.values(), *self._xa.values()):
            connection.close()


ASYNC_PARTS = ("at-sqlite", "tcc-sqlite", "xa-postgres")
"""The parts of `async_work`: PyMySQL has no coroutines."""


def async_seats(shop: Shop) -> Any:
    """The TCC action of coroutines."""
    file = shop.sqlite.removeprefix("sqlite:///")

    async def confirm(ctx: troth.ActionContext) -> None:
        await ctx.connection.execute("UPDATE seat SET frozen = frozen - ?", (ctx["n"],))

    async def cancel(ctx: troth.ActionContext) -> None:
        await ctx.connection.execute("UPDATE seat SET n = n + ?, frozen = frozen - ?", (ctx["n"], ctx["n"]))

    @troth.tcc(name="mix-async", connection=lambda: aiosqlite.connect(file), confirm=confirm, cancel=cancel)
    async def take(ctx: troth.ActionContext, n: int) -> None:
        await ctx.connection.execute("UPDATE seat SET n = n - ?, frozen = frozen + ?", (n, n))

    return take


async def async_work(shop: Shop, seat: Any) -> None:
    """AT, TCC and XA by coroutines, each on a connection of its own."""
    stock = await troth.at.connect_async(shop.sqlite)
    bill = await troth.xa.connect_async(shop.postgres)
    try:
        await stock.execute("UPDATE stock SET n = n - 7 WHERE id = 1")
        await stock.commit()
        await seat(7)
        await bill.execute("UPDATE bill SET n = n - 7 WHERE id = 1")
        await bill.commit()
    finally:
        await stock.close()
        await bill.close()


def a_trip(purchase: Purchase, *, pays: bool) -> Any:
    """A saga: a flight, then a step that does its part by AT, TCC and XA branches of the saga's own transaction."""
    shop = purchase.shop

    def give_back(ctx: troth.UndoContext) -> None:
        shop.look(shop.sqlite, f"INSERT OR IGNORE INTO flight VALUES ('{ctx.idempotency_key}', 'given back')")

    @troth.step(name="flight", compensate=give_back)
    def flight() -> None:
        key = troth.current_step().idempotency_key
        shop.look(shop.sqlite, f"INSERT OR IGNORE INTO flight VALUES ('{key}', 'booked')")

    @troth.step(name="shop", compensate=None, attempts=1)
    def shopping() -> None:
        with troth.join(troth.current_step().xid):
            purchase.work()

    @troth.step(name="payment", compensate=None, final=(PermissionError,))
    def payment() -> None:
        if not pays:
            raise PermissionError("no money")

    @troth.saga(name=f"mixed-trip-{pays}")
    def trip() -> str:
        flight()
        shopping()
        payment()
        return "done"

    return trip


def play(purchase: Purchase, *, wanted: bool) -> dict[str, str | None]:
    """One transaction: its xid, and what its owner heard."""
    xid: str | None = None
    outcome = "unknown"
    try:
        with troth.transaction(name="mixed purchase", timeout=timedelta(seconds=60)) as tx:
            xid = tx.xid
            purchase.work()
            if not wanted:
                raise NotWanted
        outcome = "committed"
    except (NotWanted, troth.TransactionRolledBack):
        outcome = "rolled back"
    except troth.OutcomeUnknown:
        pass
    except (troth.BranchFailed, troth.CoordinatorUnavailable, troth.CoordinatorRefused) as error:
        outcome = f"failed: {type(error).__name__}: {error}"
    return {"xid": xid, "outcome": outcome}


def travel(purchase: Purchase, *, pays: bool) -> dict[str, str | None]:
    """`play` by a saga. (Its xid is in the coordinator's list.)"""
    try:
        a_trip(purchase, pays=pays)()
    except (troth.StepFailed, troth.TransactionRolledBack):
        return {"xid": None, "outcome": "rolled back"}
    except troth.OutcomeUnknown:
        return {"xid": None, "outcome": "unknown"}
    return {"xid": None, "outcome": "committed"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--coordinator", required=True)
    for engine in ("sqlite", "postgres", "mariadb"):
        parser.add_argument(f"--{engine}", required=True)
    parser.add_argument("--end", choices=("commit", "rollback", "trip", "trip-fails"), required=True)
    chosen = parser.parse_args()
    troth.init(
        chosen.coordinator,
        application="mixed",
        connect_timeout_s=30.0,
        link_wait_s=20.0,
        reconnect_min_s=0.05,
        reconnect_max_s=0.2,
        tm_timeout_s=5.0,
        rm_timeout_s=5.0,
        begin_retry_timeout_s=30.0,
        commit_retry_timeout_s=30.0,
        rollback_retry_timeout_s=30.0,
    )
    purchase = Purchase(Shop(chosen.sqlite, chosen.postgres, chosen.mariadb))
    if chosen.end.startswith("trip"):
        heard = travel(purchase, pays=chosen.end == "trip")
    else:
        heard = play(purchase, wanted=chosen.end == "commit")
    print(json.dumps(heard), flush=True)
    sys.stdin.read()  # phase two is served until the test has seen its end
    purchase.close()
    troth.close()


if __name__ == "__main__":
    main()
