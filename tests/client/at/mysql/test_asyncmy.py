"""asyncmy's connections and cursors under AT: what `test_connections.py` is for PyMySQL's."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import asyncmy
import pytest
from asyncmy.cursors import DictCursor

import troth
import troth.at
from troth.client.context import join
from troth.client.errors import BranchFailed, FloorReached, LockConflict, NotSupported
from troth.wire.seata.enums import BranchStatus

pytestmark = pytest.mark.engines

XID, OTHER = "10.0.0.1:8091:1", "10.0.0.1:8091:2"


@pytest.fixture
async def connect(database: Any) -> AsyncIterator[Callable[..., Any]]:
    opened = []

    async def make(**options: Any) -> Any:
        opened.append(await troth.at.connect_async(database.url, client=database.coordinator, **options))
        return opened[-1]

    yield make
    for connection in opened:
        await connection.ensure_closed()


async def run(connection: Any, sql: str, *parameters: object) -> list[Any]:
    async with connection.cursor() as cursor:
        await cursor.execute(sql, parameters or None)
        return list(await cursor.fetchall()) if cursor.description else []


async def test_a_local_transaction_is_one_branch_and_is_undone(database: Any, connect: Any) -> None:
    before = database.dump()
    connection = await connect()
    with join(XID):
        await run(connection, "UPDATE account SET balance = balance - %s WHERE id = %s", Decimal("0.5"), 1)
        await run(connection, "INSERT INTO pair VALUES (5, 'q', 1)")
        await run(connection, "DELETE FROM account WHERE id = 3")
        assert database.dump() == before
        await connection.commit()
    (text,) = database.coordinator.lock_texts
    assert text.startswith("account:1,3;")
    assert ";pair:5_q" in text
    assert database.rows("SELECT balance FROM account") == [(Decimal("99.50"),), (Decimal("50.50"),)]
    database.coordinator.rollback(XID)
    assert database.dump() == before


async def test_autocommit_savepoints_and_begin(database: Any, connect: Any) -> None:
    before = database.dump()
    connection = await connect(autocommit=True)
    with join(XID):
        await run(connection, "UPDATE account SET balance = 1 WHERE id = 1")
        assert len(database.coordinator.branches) == 1
        await connection.begin()
        await run(connection, "UPDATE account SET balance = 2 WHERE id = 2")
        await run(connection, "SAVEPOINT s")
        await run(connection, "DELETE FROM pair")
        await run(connection, "ROLLBACK TO SAVEPOINT s")
        await run(connection, "RELEASE SAVEPOINT s")
        with pytest.raises(NotSupported, match="would commit the open"):
            await connection.begin()
        await run(connection, "COMMIT")
    assert database.coordinator.lock_texts == ["account:1", "account:2"]
    assert database.rows("SELECT COUNT(*) FROM pair") == [(3,)]
    database.coordinator.rollback(XID)
    assert database.dump() == before


async def test_with_autocommit_off_what_ended_has_ended(database: Any, connect: Any) -> None:
    """asyncmy takes a server status of 0 (no transaction, no autocommit) for none, and would keep the one before."""
    connection = await connect()
    await run(connection, "UPDATE account SET note = 'before' WHERE id = 1")
    with join(XID), pytest.raises(NotSupported, match="begun before the global one"):
        await run(connection, "UPDATE account SET balance = 0 WHERE id = 1")
    await run(connection, "COMMIT")
    with join(XID):
        await run(connection, "SELECT balance FROM account")
        await run(connection, "UPDATE account SET balance = 0 WHERE id = 1")
        await run(connection, "COMMIT")
        await run(connection, "UPDATE account SET balance = 0 WHERE id = 2")
        await connection.rollback()
        await connection.commit()
    assert database.coordinator.lock_texts == ["account:1"]


async def test_cursors_are_asyncmys_own(database: Any, connect: Any) -> None:
    connection = await connect()
    with join(XID):
        async with connection.cursor() as cursor:
            assert await cursor.execute("INSERT INTO account (name) VALUES ('eve'), ('fay') RETURNING id, balance") == 2
            assert [column[0] for column in cursor.description] == ["id", "balance"]
            assert await cursor.fetchone() == (4, Decimal("0.00"))
            assert [row async for row in cursor] == [(5, Decimal("0.00"))]
            assert await cursor.execute("INSERT INTO account (name) VALUES ('gil')") == 1
            assert (cursor.rowcount, cursor.lastrowid, cursor.description) == (1, 6, None)
            assert await cursor.executemany("UPDATE account SET balance = %s WHERE id = %s", [(1, 4), (2, 5)]) == 2
        async with connection.cursor(DictCursor) as cursor:
            await cursor.execute("DELETE FROM account WHERE id = 6 RETURNING name")
            assert await cursor.fetchall() == ({"name": "gil"},)
            await cursor.execute("SELECT id FROM account WHERE id > 3 FOR UPDATE")
            assert await cursor.fetchmany(9) == ({"id": 4}, {"id": 5})
        await connection.commit()
    database.coordinator.commit(XID)
    assert database.undo_rows() == []


async def test_types_are_kept_bit_for_bit(database: Any, connect: Any) -> None:
    database.run(
        "CREATE TABLE kinds (k VARBINARY(9) PRIMARY KEY, t TEXT, n DECIMAL(20, 6), f DOUBLE, d DATETIME(6), y YEAR, "
        "j JSON, b BIT(9), m TIME(3), u BIGINT UNSIGNED)"
    )
    values = (b"\xff\x00'", "ünï\\'%", Decimal("1.500000"), 0.1, datetime.datetime(2024, 2, 29, 1, 2, 3, 4567), 1999)
    values += ('{"a": [1]}', b"\x01\xff", datetime.timedelta(hours=-30, milliseconds=-5), 2**63 - 1)
    connection = await connect(autocommit=True)
    marks = ", ".join(["%s"] * len(values))
    await run(connection, f"INSERT INTO kinds VALUES ({marks})", *values)
    before = database.dump()
    with join(XID):
        await run(connection, "UPDATE kinds SET t = 'x', n = 0, f = 0, d = NULL, y = 2000, b = 0, m = NULL, u = 0")
        await run(connection, "DELETE FROM kinds WHERE k = %s", b"\xff\x00'")
        await run(connection, f"INSERT INTO kinds VALUES ({marks})", b"", *values[1:])
    database.coordinator.rollback(XID)
    assert database.dump() == before


async def test_errors_leave_the_connection_usable(database: Any, connect: Any) -> None:
    connection = await connect(autocommit=True)
    before = database.dump()
    with join(XID):
        with pytest.raises(asyncmy.errors.IntegrityError):
            await run(connection, "UPDATE account SET name = 'bob' WHERE id = 1")
        with pytest.raises(NotSupported, match="TRUNCATE commits by itself"):
            await run(connection, "TRUNCATE account")
        with pytest.raises(NotSupported, match="several statements"):
            await run(connection, "UPDATE account SET note = 1; DELETE FROM pair")
        with pytest.raises(NotSupported, match="prepared statement"):
            await connection.prepare("DELETE FROM pair")
    assert database.dump() == before
    assert database.coordinator.branches == []
    with pytest.raises(asyncmy.errors.ProgrammingError):
        await run(connection, "SELECT 1; SELECT 2")
    assert await run(connection, "SELECT 1") == [(1,)]


async def test_a_row_of_another_transaction_and_an_abandoned_local_one(database: Any, connect: Any) -> None:
    one, two = await connect(autocommit=True), await connect()
    before = database.dump()
    with join(OTHER):
        await run(one, "UPDATE account SET balance = 0 WHERE id = 1")
    with join(XID):
        with pytest.raises(LockConflict):
            await run(one, "UPDATE account SET balance = 1 WHERE id = 1")
        await run(two, "UPDATE account SET balance = 1 WHERE id = 1")
        with pytest.raises(BranchFailed):
            await two.commit()
        await run(two, "UPDATE account SET balance = 1 WHERE id = 2")
    assert two.unfinished(XID) is not None
    two.abandon(XID)
    assert await run(two, "SELECT balance FROM account WHERE id = 2") == [(Decimal("50.50"),)]
    database.coordinator.rollback(OTHER)
    assert database.dump() == before


async def test_a_cancelled_statement_leaves_nothing_behind(database: Any, connect: Any) -> None:
    holder = database.plain(autocommit=False)
    with holder.cursor() as cursor:
        cursor.execute("UPDATE account SET note = 'mine' WHERE id = 1")
    connection = await connect(autocommit=True)
    with join(XID), pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await run(connection, "UPDATE account SET balance = 0")
    holder.rollback()
    holder.close()
    assert not connection.connected
    assert database.coordinator.branches == []
    other = await connect(autocommit=True)
    with join(XID):
        await run(other, "UPDATE account SET balance = 0")
    assert database.rows("SELECT DISTINCT balance FROM account") == [(Decimal(0),)]


async def test_a_connection_that_is_cut_in_commit_is_settled_by_the_undo_row(database: Any, connect: Any) -> None:
    """The server has done the COMMIT, and its answer is lost: the undo row says so, and the caller hears no error."""
    connection = await connect()
    query = connection._raw.query
    cuts = []

    async def cut(sql: str, unbuffered: bool = False) -> Any:
        done = await query(sql, unbuffered)
        if sql.endswith("COMMIT"):
            cuts.append(sql)
            connection._raw.close()
            raise asyncmy.errors.OperationalError(2013, "Lost connection to MySQL server during query")
        return done

    connection._raw.query = cut
    with join(XID):
        await run(connection, "UPDATE account SET balance = 0 WHERE id = 1")
        await connection.commit()
    assert len(cuts) == 1
    assert database.coordinator.reports == []
    database.coordinator.rollback(XID)
    assert database.rows("SELECT balance FROM account WHERE id = 1") == [(Decimal(100),)]


async def test_reads_are_committed_and_hot_rows_are_shared(database: Any, connect: Any) -> None:
    connection = await connect(autocommit=True)
    with join(OTHER):
        await run(connection, "UPDATE account SET balance = 0 WHERE id = 1")
    with join(XID, isolation="read_committed"):
        with pytest.raises(LockConflict):
            await run(connection, "SELECT balance FROM account WHERE id = 1")
        assert await run(connection, "SELECT balance FROM account WHERE id = 2") == [(Decimal("50.50"),)]
    database.coordinator.rollback(OTHER)
    troth.at.init(database.url, hot_rows=True)
    hot = await connect(autocommit=True, additive={"account.balance": 0})
    with join(XID):
        with pytest.raises(FloorReached):
            await run(hot, "UPDATE account SET balance = balance - 101 WHERE id = 1")
        await run(hot, "UPDATE account SET balance = balance - 100 WHERE id = 1")
    answers = database.coordinator.try_rollback(XID)
    assert [answer.branch_status for answer in answers] == [BranchStatus.PhaseTwo_Rollbacked]
    assert database.rows("SELECT balance FROM account WHERE id = 1") == [(Decimal(100),)]


async def test_what_asyncmy_has_not(database: Any) -> None:
    with pytest.raises(NotSupported, match="prepared statements"):
        await troth.at.connect_async(database.url, stmt_cache_size=10)
    with pytest.raises(ValueError, match="write_timeout"):
        await troth.at.connect_async(database.url + "&write_timeout=3")
    with pytest.raises(NotSupported, match="connect_async"):
        troth.at.connect("mysql+asyncmy://u@h/d")
