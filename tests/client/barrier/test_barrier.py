"""The barrier on each kind of connection: DTM's rows, DTM's answers, and a late original that is refused."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import aiosqlite
import pytest
from barrier_banks import WRONG, Bank

from troth.client.barrier import Barrier, barrier, current_barrier, join, message_barrier
from troth.client.drivers import barrier as barrier_table
from troth.client.errors import BranchFailed, NoTransaction, NotSupported
from troth.client.modes.barrier import AlreadyDone
from troth.client.modes.fence import LateTry


def call_of(gid: str, op: str, trans_type: str = "tcc") -> Barrier:
    return Barrier(gid, "01", op, trans_type)


def test_a_call_is_done_once_and_leaves_the_rows_of_dtms_clients(bank: Bank, gid: str) -> None:
    for _ in range(2):
        bank.call(call_of(gid, "try"), bank.take)
    assert bank.balance() == 70
    assert bank.records(gid) == [("try", "01", "try")]
    for _ in range(2):
        bank.call(call_of(gid, "cancel"), bank.take)
    assert bank.balance() == 40
    assert bank.records(gid) == [("cancel", "01", "cancel"), ("try", "01", "try")]


@pytest.mark.engines
@pytest.mark.parametrize("kind", ["asyncpg", "pymysql"])
def test_one_life_of_a_branch_on_servers(new_bank: Callable[[str], Bank], gid: str, kind: str) -> None:
    """In short runs; the long ones take each test here to each kind of connection."""
    bank = new_bank(kind)
    with pytest.raises(KeyError):
        bank.call(call_of(gid, "try"), bank.fails)
    for _ in range(2):
        bank.call(call_of(gid, "try"), bank.take)
    assert bank.balance() == 70
    bank.call(call_of(gid, "cancel"), bank.take)
    with pytest.raises(LateTry):
        bank.call(call_of(gid, "try"), bank.take)
    assert bank.records(gid) == [("cancel", "01", "cancel"), ("try", "01", "try")]
    assert bank.check_back(gid) is False
    assert bank.balance() == 40


@pytest.mark.parametrize(("origin", "reversal"), [("try", "cancel"), ("action", "compensate"), ("action", "rollback")])
def test_a_reversal_without_its_original_does_nothing_and_bars_it(
    bank: Bank, gid: str, origin: str, reversal: str
) -> None:
    bank.call(call_of(gid, reversal), bank.take)
    assert bank.balance() == 100
    assert bank.records(gid) == sorted(
        [(reversal, "01", reversal), (origin, "01", reversal if bank.kind != "redis" else "rollback")]
    )
    with pytest.raises(LateTry, match="reversed"):
        bank.call(call_of(gid, origin), bank.take)
    bank.call(call_of(gid, reversal), bank.take)
    assert bank.balance() == 100


def test_work_that_raises_leaves_nothing_and_may_come_again(bank: Bank, gid: str) -> None:
    with pytest.raises(KeyError, match="the work fails"):
        bank.call(call_of(gid, "try"), bank.fails)
    assert bank.balance() == 100
    assert bank.records(gid) == []
    bank.call(call_of(gid, "try"), bank.take)
    assert bank.balance() == 70


def test_each_call_of_one_request_has_its_number(bank: Bank, gid: str) -> None:
    for _ in range(2):
        request = call_of(gid, "confirm")
        bank.call(request, bank.take)
        bank.call(request, bank.take)
    assert bank.balance() == 40
    assert bank.records(gid) == [("confirm", "01", "confirm"), ("confirm", "02", "confirm")]


def test_a_message_is_done_once_and_its_check_back_says_so(bank: Bank, gid: str) -> None:
    bank.call(message_barrier(gid), bank.take)
    assert bank.check_back(gid) is True
    with pytest.raises(AlreadyDone):
        bank.call(message_barrier(gid), bank.take)
    assert bank.balance() == 70
    assert bank.records(gid) == [("msg", "01", "msg")]


def test_a_message_that_was_asked_for_first_can_never_be_done(bank: Bank, gid: str) -> None:
    assert bank.check_back(gid) is False
    assert bank.check_back(gid) is False
    with pytest.raises(LateTry):
        bank.call(message_barrier(gid), bank.take)
    assert bank.balance() == 100
    assert bank.records(gid) == [("msg", "01", "rollback")]


class TestC11:
    """Field note C11: barrier ids are counted in memory, and a re-run confirms a try that was rolled back."""

    def test_c11_named_ids_do_not_depend_on_the_order_of_calls(self, bank: Bank, gid: str) -> None:
        tried = call_of(gid, "try")
        bank.call(tried, bank.take, "stock")
        bank.call(tried, bank.take, "order")
        cancelled = call_of(gid, "cancel")
        bank.call(cancelled, bank.take, "order")
        bank.call(cancelled, bank.take, "stock")
        bank.call(cancelled, bank.take, "never tried")
        assert bank.balance() == 100 - 4 * 30

    def test_c11_a_try_that_was_done_and_cancelled_fails_loudly_when_it_comes_again(self, bank: Bank, gid: str) -> None:
        bank.call(call_of(gid, "try"), bank.take)
        bank.call(call_of(gid, "cancel"), bank.take)
        with pytest.raises(LateTry, match="reversed \\(cancel\\)"):
            bank.call(call_of(gid, "try"), bank.take)
        assert bank.balance() == 40


class TestC12:
    """Field note C12: dtmcli for Python pastes values into SQL, is for MySQL only and sync only, and prints."""

    @pytest.mark.parametrize("kind", ["sqlite", pytest.param("pymysql", marks=(pytest.mark.engines, pytest.mark.soak))])
    def test_c12_what_a_caller_names_reaches_no_sql(
        self, new_bank: Callable[[str], Bank], gid: str, kind: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        bank = new_bank(kind)
        names = ["it's", "%s", "a?b", '"; DROP TABLE barrier; --', "Grüße", "\\'"]
        for name in (*names, *names):
            bank.call(Barrier(gid + name, "01", "try", "tcc"), bank.take)
        assert bank.balance() == 100 - 30 * len(names)
        found = {row[0] for row in bank.rows(f"SELECT gid FROM {bank.table}") if row[0].startswith(gid)}
        assert {gid + name for name in names} <= found
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize(
        "values",
        [
            ("g" * 129, "01", "try"),
            ("g", "0" * 129, "try"),
            ("g", "01", "t" * 46),
            ("g\0", "01", "try"),
            ("", "01", "try"),
            ("g ", "01", "try"),
            ("g\n", "01", "try"),
        ],
    )
    def test_c12_what_the_table_would_cut_or_confuse_is_refused(self, values: tuple[str, str, str]) -> None:
        with pytest.raises(ValueError, match="a barrier's"):
            Barrier(*values)

    def test_c12_the_name_of_another_table_reaches_no_sql(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no name of a table"):
            barrier_table.init(f"sqlite:///{tmp_path}/b.db", "barrier; DROP TABLE account")


@pytest.mark.engines
@pytest.mark.parametrize("kind", ["pymysql", pytest.param("psycopg", marks=pytest.mark.soak)])
def test_reversals_side_by_side_are_done_once_and_no_deadlock(
    new_bank: Callable[[str], Bank], gid: str, kind: str
) -> None:
    bank = new_bank(kind)
    rounds, failed = 4, []
    both = threading.Barrier(3)

    def cancel() -> None:
        for number in range(rounds):
            both.wait()
            try:
                bank.call(Barrier(f"{gid}-{number}", "01", "cancel", "tcc"), bank.take)
            except Exception as error:  # noqa: BLE001 - told below
                failed.append(error)

    threads = [threading.Thread(target=cancel) for _ in range(3)]
    for number in range(0, rounds, 2):
        bank.call(Barrier(f"{gid}-{number}", "01", "try", "tcc"), lambda _: None)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert bank.balance() == 100 - 30 * rounds // 2


@pytest.mark.engines
@pytest.mark.parametrize("kind", ["psycopg", "asyncpg", "sqlalchemy-async"])
def test_a_swallowed_sql_error_is_not_taken_for_success(new_bank: Callable[[str], Bank], gid: str, kind: str) -> None:
    """PostgreSQL answers COMMIT of a failed transaction with success, and rolls back."""
    bank = new_bank(kind)

    def swallows(connection: object) -> None:
        try:
            bank.run(connection, WRONG)
        except Exception:  # noqa: BLE001 - the fault under test
            return

    async def aswallows(connection: object) -> None:
        try:
            await bank.run(connection, WRONG)
        except Exception:  # noqa: BLE001 - the fault under test
            return

    with pytest.raises(Exception, match=r"(?i)swallowed|aborted"):
        bank.call(call_of(gid, "try"), aswallows if bank.is_async else swallows)
    assert bank.records(gid) == []


def test_work_that_commits_by_itself_is_told_so(tmp_path: Path, new_bank: Callable[[str], Bank], gid: str) -> None:
    bank = new_bank("sqlite")

    def commits(connection: sqlite3.Connection) -> None:
        connection.commit()

    with pytest.raises(BranchFailed, match="leave commit to the barrier"):
        bank.call(call_of(gid, "try"), commits)


def test_an_open_transaction_is_not_committed_by_the_barrier(new_bank: Callable[[str], Bank], gid: str) -> None:
    bank = new_bank("sqlite")
    with closing(bank.connect()) as connection:
        connection.execute("UPDATE barrier_account SET balance = 1")
        with pytest.raises(BranchFailed, match="transaction is open"):
            call_of(gid, "try").call(connection, bank.take)
        connection.rollback()
        call_of(gid, "try").call(connection, bank.take)
        assert connection.execute("SELECT balance FROM barrier_account").fetchall() == [(70,)]  # it is open still


def test_the_block_runs_where_it_may(new_bank: Callable[[str], Bank], gid: str) -> None:
    bank = new_bank("sqlite")
    for _ in range(2):
        with call_of(gid, "try").transaction(bank.connect) as first:
            if first:
                bank.take(first.connection)
    assert bank.balance() == 70
    with pytest.raises(KeyError), call_of(gid, "confirm").transaction(bank.connect) as first:
        bank.fails(first.connection if first else None)
    assert bank.balance() == 70


def test_a_block_that_does_not_ask_is_rolled_back(new_bank: Callable[[str], Bank], gid: str) -> None:
    bank = new_bank("sqlite")
    with pytest.raises(RuntimeError, match="did not ask"), call_of(gid, "try").transaction(bank.connect) as first:
        bank.take(first.connection)
    assert bank.balance() == 100
    assert bank.records(gid) == []


async def test_the_async_block_runs_where_it_may(new_bank: Callable[[str], Bank], gid: str, tmp_path: Path) -> None:
    bank = new_bank("sqlite")
    connect = partial(aiosqlite.connect, bank.url.removeprefix("sqlite:///"))
    for _ in range(2):
        async with call_of(gid, "try").transaction(connect) as first:
            if first:
                await bank.take(first.connection)
    assert bank.balance() == 70


def test_decorated_functions_run_behind_the_barrier_of_their_request(new_bank: Callable[[str], Bank], gid: str) -> None:
    bank = new_bank("sqlite")

    @barrier(bank.connect)
    def withdraw(connection: sqlite3.Connection, amount: int, *, account: str) -> int:
        connection.execute("UPDATE barrier_account SET balance = balance - ? WHERE id = ?", (amount, account))
        return amount

    with pytest.raises(NoTransaction):
        withdraw(5, account="A")
    query = {"gid": gid, "branch_id": "01", "op": "action", "trans_type": "saga"}
    with join(query) as request:
        assert current_barrier() is request
        assert withdraw(5, account="A") == 5
    with join("&".join(f"{name}={value}" for name, value in query.items())):
        assert withdraw(5, account="A") is None
    assert bank.balance() == 95


async def test_decorated_coroutines_run_behind_the_barrier(new_bank: Callable[[str], Bank], gid: str) -> None:
    bank = new_bank("sqlite")

    @barrier(partial(aiosqlite.connect, bank.url.removeprefix("sqlite:///")))
    async def withdraw(connection: aiosqlite.Connection) -> str:
        await bank.take(connection)
        return "done"

    metadata = {"dtm-gid": gid, "dtm-branch_id": "01", "dtm-op": "action", "dtm-trans_type": "saga"}
    with join(Barrier.from_metadata(metadata)):
        assert await withdraw() == "done"
    with join(Barrier.from_metadata(metadata)):
        assert await withdraw() is None
    assert bank.balance() == 70


def test_a_barrier_does_not_live_on_what_is_no_connection(gid: str) -> None:
    with pytest.raises(NotSupported, match=r"engine\.connect"):
        call_of(gid, "try").call(object(), lambda _: None)


def test_a_blocking_function_wants_a_blocking_connection(tmp_path: Path, gid: str) -> None:
    with pytest.raises(NotSupported, match="blocking"):
        call_of(gid, "try").call(partial(aiosqlite.connect, tmp_path / "x.db"), lambda _: None)


@pytest.mark.engines
def test_a_pool_of_asyncpg_gets_its_connections_back(barrier_urls: Callable[[str], str], gid: str) -> None:
    import asyncio

    import asyncpg

    url = barrier_urls("postgres")
    barrier_table.init(url)

    async def main() -> None:
        async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:
            for op in ("try", "confirm"):
                await call_of(gid, op).acall(pool.acquire, lambda connection: connection.execute("SELECT 1"))

    asyncio.run(asyncio.wait_for(main(), 20))
