"""A local transaction that is not committed when its global one ends: told, undone, and the connection goes on."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

import troth
from fixtures_coordinator import until

ADD = "UPDATE account SET balance = balance + 1 WHERE id = 1"


@pytest.fixture(scope="module")
def client() -> Iterator[troth.Client]:
    with troth.embedded(retry__min="50ms") as client:
        yield client


@pytest.fixture
def path(tmp_path: Path, client: troth.Client) -> Path:
    path = tmp_path / "bank.db"
    troth.at.init(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as raw:
        raw.executescript(
            "CREATE TABLE account (id INTEGER PRIMARY KEY, balance INT); INSERT INTO account VALUES (1, 0)"
        )
    return path


@pytest.fixture
def connect(path: Path) -> Iterator[Callable[..., troth.at.Connection]]:
    opened: list[troth.at.Connection] = []

    def make(**options: object) -> troth.at.Connection:
        opened.append(troth.at.connect(f"sqlite:///{path}", **options))
        return opened[-1]

    yield make
    for connection in opened:
        connection.close()


def balance(path: Path) -> int:
    with closing(sqlite3.connect(path)) as raw:
        return int(raw.execute("SELECT balance FROM account").fetchone()[0])


def test_a_forgotten_commit_rolls_the_global_transaction_back(path: Path, connect: Callable[..., troth.at.Connection]):
    one, other = connect(), connect()

    @troth.global_transaction
    def forgets() -> None:
        with other:
            other.execute(ADD)
        one.execute(ADD)

    with pytest.raises(troth.TransactionRolledBack, match=r"bank\.db was not committed"):
        forgets()
    assert not one.in_transaction
    until(lambda: balance(path) == 0)
    with troth.transaction(), one:
        one.execute(ADD)
    assert balance(path) == 1


def test_so_does_a_commit_behind_the_global_one(path: Path, connect: Callable[..., troth.at.Connection]):
    connection = connect()
    with pytest.raises(troth.TransactionRolledBack, match="not committed"), connection, troth.transaction():
        connection.execute(ADD)
    assert balance(path) == 0


def test_an_exception_frees_the_file_for_the_undo(path: Path, connect: Callable[..., troth.at.Connection]):
    connection = connect()

    @troth.global_transaction
    def fails() -> None:
        connection.execute(ADD)
        raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert not connection.in_transaction
    connection.execute(ADD)
    connection.commit()
    assert balance(path) == 1


def test_no_rollback_for_does_not_excuse_it(
    path: Path, connect: Callable[..., troth.at.Connection], client: troth.Client
):
    connection, xids = connect(), []

    @troth.global_transaction(no_rollback_for=(KeyError,))
    def fails() -> None:
        xids.append(troth.current_xid())
        connection.execute(ADD)
        raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert client.status(xids[0]).name == "Rollbacked"


def test_an_inner_scope_hands_it_to_its_owner(path: Path, connect: Callable[..., troth.at.Connection]):
    connection = connect()
    with troth.transaction():
        with troth.transaction():
            connection.execute(ADD)
        connection.commit()
    assert balance(path) == 1
    with pytest.raises(troth.TransactionRolledBack), troth.transaction(), troth.transaction():
        connection.execute(ADD)
    assert balance(path) == 1


def test_what_only_joined_is_told_in_the_log(
    path: Path, connect: Callable[..., troth.at.Connection], caplog: pytest.LogCaptureFixture
):
    connection = connect(check_same_thread=False)

    def participant(xid: str) -> None:
        with troth.join(xid):
            connection.execute(ADD)

    with troth.transaction() as tx:
        thread = threading.Thread(target=participant, args=(tx.xid,))
        with caplog.at_level(logging.ERROR, "troth"):
            thread.start()
            thread.join()
        connection.rollback()
    assert "was not committed: that will be lost" in caplog.text
    assert balance(path) == 0


async def test_aiosqlite(path: Path, client: troth.Client):
    connection = await troth.at.connect_async(f"sqlite:///{path}")
    try:
        with pytest.raises(troth.TransactionRolledBack, match="not committed"):
            async with troth.transaction():
                await connection.execute(ADD)
        async with troth.transaction():
            await connection.execute(ADD)
            await connection.commit()
    finally:
        await connection.close()
    assert balance(path) == 1


def test_threads_share_a_connection_inside_one_global_transaction(
    path: Path, connect: Callable[..., troth.at.Connection], client: troth.Client
):
    connection = connect(check_same_thread=False, isolation_level=None)
    failures: list[BaseException] = []

    def work(xid: str) -> None:
        try:
            with troth.join(xid):
                for _ in range(10):
                    connection.execute(ADD)
        except Exception as error:  # noqa: BLE001 - shown by the assertion
            failures.append(error)

    @troth.global_transaction
    def fails() -> None:
        threads = [threading.Thread(target=work, args=(troth.current_xid(),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (failures, balance(path)) == ([], 40)
        raise KeyError

    with pytest.raises(KeyError):
        fails()
    until(lambda: balance(path) == 0)
