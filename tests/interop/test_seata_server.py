"""Our client's AT against a real Seata server: what a shop does that brings Python to the coordinator it has.

In short runs the server in file mode, with SQLite and MariaDB; in long ones DB mode and PostgreSQL, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from seata_server import SeataServer, db_store_in, file_store

import troth
from fixtures_coordinator import until
from troth.demo import plain
from troth.demo.plain import spelled
from troth.wire.seata.enums import GlobalStatus

pytestmark = pytest.mark.engines

DEDUCT = "UPDATE account SET balance = balance - ? WHERE id = ?"


@pytest.fixture(scope="module", params=["file", pytest.param("db", marks=pytest.mark.soak)])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeataServer]:
    """A server that remembers in a file, and in long runs one that remembers in MariaDB."""
    directory = tmp_path_factory.mktemp("seata-server")
    if request.param == "file":
        store = file_store(directory)
    else:
        store = db_store_in(request.getfixturevalue("mariadb_server"), "seata_store")
    one = SeataServer(directory, store)
    try:
        one.wait_until_it_serves()
        yield one
    finally:
        one.close()


class Bank:
    """One business database and how it looks from outside."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.run("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)")
        self.run("INSERT INTO account VALUES (1, 100), (2, 100)")
        troth.at.init(url)

    def deduct(self, amount: int, account: int) -> None:
        """One local transaction."""
        with closing(troth.at.connect(self.url)) as db:
            db.cursor().execute(spelled(self.url, DEDUCT), (amount, account))
            db.commit()

    def run(self, statement: str) -> None:
        """Past AT."""
        with closing(plain.connect(self.url)) as db:
            db.cursor().execute(statement)

    def read(self, query: str) -> list[int]:
        """The first column."""
        with closing(plain.connect(self.url)) as db, closing(db.cursor()) as cursor:
            cursor.execute(query)
            return [row[0] for row in cursor.fetchall()]

    def balances(self) -> list[int]:
        return self.read("SELECT balance FROM account ORDER BY id")

    def undo_logs(self) -> int:
        (count,) = self.read("SELECT count(*) FROM undo_log")
        return count


@pytest.fixture(params=["sqlite", "mariadb", pytest.param("postgres", marks=pytest.mark.soak)])
def new_bank(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Bank]:
    """Makes banks, each in a database of its own."""
    if request.param == "sqlite":
        numbers = itertools.count(1)
        return lambda: Bank(f"sqlite:///{tmp_path}/bank-{next(numbers)}.db")
    new_database: Callable[[], str] = request.getfixturevalue(f"new_{request.param}_database")
    return lambda: Bank(new_database())


@pytest.fixture
def shop(server: SeataServer, new_bank: Callable[[], Bank], tmp_path: Path) -> Iterator[tuple[Bank, Bank]]:
    """A client of the server, and two databases."""
    troth.init(
        coordinator=server.address,
        application=f"python-{tmp_path.name}",
        lock_retry_interval_s=0.01,
        lock_retry_times=5,
    )
    try:
        yield new_bank(), new_bank()
    finally:
        troth.close()


def test_a_commit(shop: tuple[Bank, Bank]) -> None:
    one, two = shop
    with troth.transaction(name="transfer") as tx:
        one.deduct(30, 1)
        two.deduct(-30, 1)
        assert tx.status() is GlobalStatus.Begin
    assert (one.balances(), two.balances()) == ([70, 100], [130, 100])
    until(lambda: one.undo_logs() == two.undo_logs() == 0)


def test_an_exception_rolls_back_both(shop: tuple[Bank, Bank]) -> None:
    one, two = shop
    with pytest.raises(ValueError, match="no"), troth.transaction(name="transfer"):  # noqa: PT012
        one.deduct(30, 1)
        two.deduct(-30, 1)
        assert one.balances() == [70, 100]
        raise ValueError("no")
    assert (one.balances(), two.balances()) == ([100, 100], [100, 100])
    assert one.undo_logs() == two.undo_logs() == 0


def test_a_row_of_another_transaction_is_refused_until_that_has_ended(shop: tuple[Bank, Bank]) -> None:
    one, _ = shop
    with troth.transaction(name="holder"):
        one.deduct(10, 1)
        with (
            pytest.raises(troth.LockConflict),
            troth.transaction(name="other", propagation=troth.Propagation.REQUIRES_NEW),
        ):
            one.deduct(1, 1)
        assert one.balances() == [90, 100], "the refused change is not in"
    with troth.transaction(name="other"):
        one.deduct(1, 1)
    assert one.balances() == [89, 100]


def test_a_unique_value_is_not_locked_there_however_long_its_name(shop: tuple[Bank, Bank]) -> None:
    """A Seata server keeps 32 characters of a table's name; `table#unique key` would not fit, and it knows no such."""
    one, _ = shop
    key = "one_mail_address_for_each_account_of_the_bank"
    one.run(
        f"CREATE TABLE customer (id INTEGER PRIMARY KEY, mail VARCHAR(99) NOT NULL, CONSTRAINT {key} UNIQUE (mail))"
    )
    one.run("INSERT INTO customer VALUES (1, 'ann@home')")
    with troth.transaction(name="moves"), closing(troth.at.connect(one.url)) as db:
        db.cursor().execute("UPDATE customer SET mail = 'ann@work' WHERE id = 1")
        db.cursor().execute("INSERT INTO customer VALUES (2, 'bob@home')")
        db.commit()
    assert one.read("SELECT mail FROM customer ORDER BY id") == ["ann@work", "bob@home"]
    until(lambda: one.undo_logs() == 0)


@pytest.mark.parametrize("late", [GlobalStatus.TimeoutRollbacking, GlobalStatus.Finished])
def test_a_timeout_rolls_back_and_a_late_commit_is_not_taken_for_success(
    shop: tuple[Bank, Bank], late: GlobalStatus
) -> None:
    """A real server looks for timeouts once a second, and forgets what has ended."""
    one, _ = shop
    tx = troth.transaction(name="slow", timeout=timedelta(milliseconds=400))
    with pytest.raises((troth.TransactionRolledBack, troth.OutcomeUnknown)), tx:  # noqa: PT012
        one.deduct(30, 1)
        until(lambda: tx.status() in (late, GlobalStatus.Finished))
    until(lambda: one.balances() == [100, 100])
    until(lambda: one.undo_logs() == 0)
    until(lambda: tx.status() is GlobalStatus.Finished)


def test_a_dirty_row_is_kept_for_a_person(shop: tuple[Bank, Bank]) -> None:
    """Somebody wrote without a lock: the undo refuses, and neither the stranger's value nor the undo log is lost."""
    one, _ = shop
    with pytest.raises(ValueError, match="no"), troth.transaction(name="dirty"):  # noqa: PT012
        one.deduct(30, 1)
        one.run("UPDATE account SET balance = 5 WHERE id = 1")
        raise ValueError("no")
    assert one.balances() == [5, 100]
    assert one.undo_logs() == 1
