"""What AT costs on the wire: a relay between driver and server reads PostgreSQL's protocol and counts.

A round trip is a frame that makes the server answer (Sync, or a simple Query); everything before it waits in buffers.
"""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlsplit

import psycopg
import pytest

import troth.at
from troth.client.context import join
from troth.client.errors import BranchFailed

pytestmark = pytest.mark.engines

A = "10.0.0.1:8091:1"
UPDATE = "UPDATE account SET balance = %s WHERE id = %s"


@pytest.fixture
def relay(database, new_relay):
    place = urlsplit(database.url)
    made = new_relay(place.hostname, place.port)
    made.url = database.url.replace(f":{place.port}/", f":{made.port}/") + "?sslmode=disable&gssencmode=disable"
    yield made
    made.close()


@pytest.fixture
def connect(relay, coordinator):
    opened = []

    def connected(**options):
        opened.append(troth.at.connect(relay.url, client=coordinator, **options))
        return opened[-1]

    yield connected
    for connection in opened:
        connection.close()


def counted(relay, work, *arguments) -> int:
    before = relay.trips
    work(*arguments)
    return relay.trips - before


def test_one_update_by_key_is_two_trips(database, relay, connect, coordinator):
    connection = connect(autocommit=True)
    with join(A):
        connection.execute(UPDATE, (1, 1))  # which reads the catalogue, too
        for number in range(8):  # psycopg prepares what it sees for the fifth time
            assert counted(relay, connection.execute, UPDATE, (number, 1)) == 2
        assert counted(relay, connection.execute, "INSERT INTO account (name) VALUES ('a') RETURNING id") == 2
        assert counted(relay, connection.execute, "DELETE FROM account WHERE name = 'a'") == 2
    assert len(coordinator.branches) == 11
    assert database.rows("SELECT balance FROM account WHERE id = 1") == [(7,)]


def test_upserts(database, relay, connect):
    """Before version 18 a row that is there already is met by a trial, locked and imaged."""
    has_old = database._plain.info.server_version >= 180000
    upsert = (
        "INSERT INTO account (id, balance) VALUES (%s, 1) ON CONFLICT (id) DO UPDATE SET balance = account.balance + 1"
    )
    connection = connect(autocommit=True)
    with join(A):
        connection.execute(upsert, (1,))
        assert counted(relay, connection.execute, upsert, (50,)) == 2
        assert counted(relay, connection.execute, upsert, (50,)) == (2 if has_old else 4)
    assert database.rows("SELECT balance FROM account WHERE id = 50") == [(2,)]


def test_a_local_transaction_is_one_trip_a_statement_and_one_for_its_end(relay, connect):
    connection = connect()
    with join(A):
        for number in range(7):

            def transfer(number=number):
                connection.execute(UPDATE, (number, 1))
                connection.execute(UPDATE, (-number, 2))
                connection.execute("DELETE FROM pair WHERE v = %s", (number,))
                connection.commit()

            trips = counted(relay, transfer)
            assert number == 0 or trips == 4


def test_a_block_is_as_cheap(relay, connect):
    connection = connect()

    def in_block():
        with connection.transaction():
            connection.execute(UPDATE, (1, 1))

    with join(A):
        in_block()
        assert counted(relay, in_block) == 2


def test_outside_nothing_is_added(relay, connect):
    connection = connect(autocommit=True)
    assert counted(relay, connection.execute, UPDATE, (1, 1)) == 1


async def test_asyncio_costs_the_same(relay, coordinator):
    connection = await troth.at.connect_async(relay.url, client=coordinator, autocommit=True)
    async with connection, join(A):
        await connection.execute(UPDATE, (1, 1))
        before = relay.trips
        for number in range(8):
            await connection.execute(UPDATE, (number, 1))
        assert relay.trips - before == 16
        await connection.set_autocommit(False)
        before = relay.trips
        await connection.execute(UPDATE, (1, 1))
        await connection.execute(UPDATE, (1, 2))
        await connection.commit()
        assert relay.trips - before == 3
    await asyncio.to_thread(coordinator.rollback, A)


def test_written_foreign_keys_cost_no_trip(database, relay, connect, coordinator):
    database.run("CREATE TABLE child (id int PRIMARY KEY, a int, account int REFERENCES account)")
    connection = connect(autocommit=True)
    with join(A):
        connection.execute("INSERT INTO child VALUES (1, 1, 1)")
        assert counted(relay, connection.execute, "INSERT INTO child VALUES (2, 1, 1), (3, 1, 2)") == 2


def test_a_value_that_psycopg_cannot_send(database, connect, coordinator):
    """Nothing of the statement is sent; what was written before it stays, and the connection goes on."""
    connection = connect()
    with join(A):
        connection.execute(UPDATE, (5, 1))
        with pytest.raises(psycopg.ProgrammingError, match="cannot adapt"):
            connection.execute(UPDATE, (object(), 1))
        connection.execute(UPDATE, (6, 2))
        connection.commit()
    assert coordinator.lock_texts == ["account:1,2"]
    assert database.rows("SELECT balance FROM account WHERE id < 3 ORDER BY id") == [(5,), (6,)]


def test_a_pipeline_from_outside_is_refused(database, connect):
    connection = connect(autocommit=True)
    with connection.pipeline(), join(A), pytest.raises(troth.NotSupported, match="pipeline"):
        connection.execute(UPDATE, (5, 1))
    with join(A):
        connection.execute(UPDATE, (6, 1))
    assert database.rows("SELECT balance FROM account WHERE id = 1") == [(6,)]


def test_a_slow_link_is_waited_for_twice(relay, connect):
    connection = connect(autocommit=True)
    with join(A):
        connection.execute(UPDATE, (1, 1))
        relay.delay_s = 0.15
        started = time.monotonic()
        connection.execute(UPDATE, (2, 1))
        assert 0.3 <= time.monotonic() - started < 0.45
        relay.delay_s = 0


def test_a_changed_definition_is_seen_on_the_way(database, relay, connect, coordinator):
    """The statement made for the old columns is taken back by its savepoint, and made anew."""
    before = None
    connection = connect()
    with join(A):
        connection.execute(UPDATE, (1, 1))
        connection.commit()
        database.run("ALTER TABLE account ADD COLUMN extra int DEFAULT 7")
        before = database.dump()
        connection.execute(UPDATE, (5, 2))
        connection.execute("DELETE FROM account WHERE id = 3")
        connection.commit()
    assert database.rows("SELECT balance, extra FROM account WHERE id = 2") == [(5, 7)]
    coordinator.rollback(A)
    assert database.rows("SELECT extra FROM account ORDER BY id") == [(7,), (7,), (7,)]
    assert before is not None
    connection.execute(UPDATE, (1, 1))
    connection.commit()


@pytest.mark.parametrize("script", ["ALTER TABLE account DROP COLUMN data", "ALTER TABLE account RENAME name TO label"])
def test_a_column_that_is_gone_is_no_error(database, connect, coordinator, script):
    connection = connect()
    with join(A):
        connection.execute(UPDATE, (1, 1))
        connection.execute("UPDATE pair SET v = 0 WHERE a = 2")
        connection.commit()
        database.run(script)
        connection.execute("UPDATE pair SET v = 1 WHERE a = 2")  # not lost by what comes now
        connection.execute(UPDATE, (5, 2))
        connection.commit()
    assert coordinator.lock_texts[-1] == "account:2;pair:2_x"
    assert database.rows("SELECT balance, v FROM account, pair WHERE id = 2 AND a = 2") == [(5, 1)]


def test_a_refusal_is_not_remembered_past_its_reason(database, connect):
    database.run(
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (p int REFERENCES p ON DELETE CASCADE); "
        "INSERT INTO p VALUES (1)"
    )
    connection = connect(autocommit=True)
    with join(A):
        connection.execute("INSERT INTO p VALUES (2)")
        with pytest.raises(troth.NotSupported, match="CASCADE"):
            connection.execute("DELETE FROM p")
        database.run("DROP TABLE c")
        connection.execute("DELETE FROM p")
    assert database.rows("SELECT * FROM p") == []


@pytest.mark.parametrize("stored", [False, True])
def test_connection_lost_in_commit(database, relay, connect, coordinator, stored):
    """Undo row and COMMIT go together; cut before they arrive, or before their answer does, the new look decides."""
    before = database.dump()
    connection = connect()
    with join(A):
        connection.execute(UPDATE, (7, 1))
        relay.cut_at(b"COMMIT", answered=stored)
        if stored:
            connection.commit()
            assert database.rows("SELECT balance FROM account WHERE id = 1") == [(7,)]
        else:
            with pytest.raises(BranchFailed):
                connection.commit()
            assert [row[2] for row in database.undo_rows()] == [1]
    coordinator.rollback(A)
    assert database.dump() == before
    assert connection.closed


async def test_connection_lost_in_commit_under_asyncio(database, relay, coordinator):
    connection = await troth.at.connect_async(relay.url, client=coordinator)
    async with join(A):
        await connection.execute(UPDATE, (7, 1))
        relay.cut_at(b"COMMIT", answered=True)
        await connection.commit()
    await connection.close()
    assert database.rows("SELECT balance FROM account WHERE id = 1") == [(7,)]
    await asyncio.to_thread(coordinator.rollback, A)
    assert database.rows("SELECT balance FROM account WHERE id = 1") == [(100,)]


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


async def test_a_cancelled_statement_leaves_nothing_open(database, coordinator):
    """It waits for a row in the middle of a pipeline: cancelled, it is rolled back, and the connection goes on."""
    connection = await troth.at.connect_async(database.url, client=coordinator, autocommit=True)
    async with join(A):
        await connection.execute(UPDATE, (1, 2))
        with psycopg.connect(database.url) as other:
            other.execute("SELECT 1 FROM account WHERE id = 1 FOR UPDATE")
            task = asyncio.create_task(connection.execute(UPDATE, (5, 1)))
            deadline = time.monotonic() + 20
            while database.rows(WAITING) == [(0,)] and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert connection.info.transaction_status.name == "IDLE"
        await connection.execute(UPDATE, (6, 1))
    await connection.close()
    assert coordinator.lock_texts == ["account:2", "account:1"]
    assert database.rows("SELECT balance FROM account WHERE id < 3 ORDER BY id") == [(6,), (1,)]
