"""`troth.at.connect_async("postgresql+asyncpg://…")`: every way to run a statement, on a real PostgreSQL."""

# ruff: noqa: PT012, SIM117 - the point of most blocks is what was done before they fail

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from io import BytesIO
from uuid import UUID

import asyncpg
import pytest

import troth
import troth.at
from troth.client.drivers import asyncpg as at_asyncpg
from troth.client.drivers.asyncpg_place import parse_url
from troth.client.drivers.asyncpg_texts import from_dialect, literal, to_dialect, with_literals
from troth.client.errors import LockConflict, NotSupported

pytestmark = [pytest.mark.engines, pytest.mark.usefixtures("troth_client")]


class Undo(Exception):
    """Ends a global transaction without a commit."""


@pytest.fixture
def database(shop):
    return shop("postgresql")


@pytest.fixture
async def connection(database):
    made = await troth.at.connect_async(database.with_driver("postgresql+asyncpg"))
    yield made
    await made.close()


@asynccontextmanager
async def undone(database):
    """A global transaction that is rolled back; every row is what it was then."""
    before = database.dump()
    with pytest.raises(Undo):
        async with troth.transaction(name="buy"):
            yield
            raise Undo
    assert database.dump() == before


async def test_every_way_to_run_a_statement(database, connection):
    async with undone(database):
        assert await connection.execute("UPDATE account SET balance = $2 WHERE id = $1", 1, 5) == "UPDATE 1"
        assert (
            await connection.execute("INSERT INTO account (name) VALUES ('50%'), ('$1 is no parameter')")
            == "INSERT 0 2"
        )
        rows = await connection.fetch(
            "UPDATE account SET balance = balance + $1 WHERE id < $2 RETURNING id, name", 1, 3
        )
        assert sorted((row["id"], row["name"]) for row in rows) == [(1, "ann"), (2, "bob")]
        row = await connection.fetchrow("DELETE FROM account WHERE id = $1 RETURNING name AS n, balance", 3)
        assert dict(row) == {"n": "cem", "balance": Decimal(7)}
        assert await connection.fetchrow("DELETE FROM account WHERE id = $1 RETURNING name", 3) is None
        assert await connection.fetchval("INSERT INTO account (name) VALUES ($1) RETURNING id", "d") == 6
        await connection.executemany("INSERT INTO pair VALUES ($1, $2, $3)", [(8, "x", 1), (9, "x", 1)])
        statement = await connection.prepare("UPDATE pair SET v = v + $2 WHERE a = $1 RETURNING b")
        assert [attribute.name for attribute in statement.get_attributes()] == ["b"]
        assert sorted(row["b"] for row in await statement.fetch(1, 10)) == ["x", "y"]
        assert statement.get_statusmsg() == "UPDATE 2"
        assert await statement.fetchval(2, 1) == "x"
        await statement.executemany([(8, 1), (9, 2)])
        assert database.undo_rows() == 9
        locked = await connection.fetch("SELECT id FROM account WHERE id = 1 FOR UPDATE")
        assert [tuple(row) for row in locked] == [(1,)]
        assert database.rows("SELECT v FROM pair ORDER BY a, b") == [(20,), (30,), (31,), (2,), (3,)]


async def test_a_record_is_asyncpgs_without_the_image(database, connection):
    async with undone(database):
        (record,) = await connection.fetch("UPDATE account SET name = 'e' WHERE id = 1 RETURNING name, id, name AS n")
    assert isinstance(record, asyncpg.Record)
    assert (len(record), tuple(record), record[1], record[-1], record[:2]) == (3, ("e", 1, "e"), 1, "e", ("e", 1))
    assert (list(record.keys()), list(record.values())) == (["name", "id", "n"], ["e", 1, "e"])
    assert dict(record.items()) == {"name": "e", "id": 1, "n": "e"}
    assert "balance" not in record
    assert record.get("balance", 0) == 0
    assert record == ("e", 1, "e")
    assert hash(record) == hash(("e", 1, "e"))
    assert repr(record) == "<Record name='e' id=1 n='e'>"
    for key, error in (("n$0", KeyError), (3, IndexError)):
        with pytest.raises(error):
            record[key]


async def test_transactions_and_savepoints(database, connection):
    async with troth.transaction(name="buy"):
        async with connection.transaction():
            await connection.execute("UPDATE account SET balance = 1 WHERE id = 1")
            with pytest.raises(Undo):
                async with connection.transaction():
                    await connection.execute("DELETE FROM account")
                    raise Undo
            with pytest.raises(asyncpg.UniqueViolationError):
                async with connection.transaction():
                    await connection.execute("INSERT INTO account (id, name) VALUES (2, 'twice')")
            await connection.execute("UPDATE account SET balance = 2 WHERE id = 2")
        assert database.undo_rows() == 1
        with pytest.raises(Undo):
            async with connection.transaction():
                await connection.execute("DELETE FROM account")
                raise Undo
    assert database.rows("SELECT balance FROM account ORDER BY id") == [(1,), (2,), (7,)]
    database.wait_until_settled()
    async with undone(database):
        transaction = connection.transaction(isolation="repeatable_read")
        await transaction.start()
        await connection.execute("UPDATE account SET balance = 5")
        await transaction.commit()


async def test_a_local_transaction_that_only_read_before(database, connection):
    async with undone(database), connection.transaction():
        assert await connection.fetchval("SELECT count(*) FROM account WHERE id = $1", 1) == 1
        async for row in connection.cursor("SELECT id FROM account ORDER BY id", prefetch=1):
            assert row["id"] in (1, 2, 3)
        await connection.execute("UPDATE account SET balance = 0")


async def test_rows_of_another_global_transaction(database, connection):
    async with troth.transaction(name="first"):
        await connection.execute("UPDATE account SET balance = 1 WHERE id = 1")
        async with troth.join(None), troth.transaction(name="second"):
            with pytest.raises(LockConflict):
                await connection.execute("UPDATE account SET balance = 2 WHERE id = 1")
            with pytest.raises(LockConflict):
                async with connection.transaction():
                    await connection.execute("UPDATE account SET balance = 2 WHERE id = 1")
            await connection.execute("UPDATE account SET balance = 2 WHERE id = 2")
    assert database.rows("SELECT balance FROM account ORDER BY id") == [(1,), (2,), (7,)]


async def test_what_would_write_past_at_is_refused(database, connection):
    async with undone(database):
        for call in (
            lambda: connection.copy_records_to_table("pair", records=[(5, "x", 1)]),
            lambda: connection.copy_to_table("pair", source=BytesIO(b"5\tx\t1\n")),
            lambda: connection.copy_from_query("DELETE FROM pair RETURNING a", output=BytesIO()),
            lambda: connection.fetchmany("INSERT INTO pair VALUES ($1, 'x', 1) RETURNING a", [(5,)]),
            lambda: connection.execute("TRUNCATE account"),
            lambda: connection.execute("DELETE FROM pair; DELETE FROM account"),
            lambda: connection.set_type_codec("text", schema="pg_catalog", encoder=str, decoder=str),
        ):
            with pytest.raises(NotSupported):
                await call()
        with pytest.raises(NotSupported):
            connection.cursor("DELETE FROM pair RETURNING a")
        statement = await connection.prepare("DELETE FROM pair RETURNING a")
        with pytest.raises(NotSupported):
            statement.cursor()
        out = BytesIO()
        assert await connection.copy_from_query("SELECT a FROM pair ORDER BY a, b LIMIT 1", output=out) == "COPY 1"
        assert out.getvalue() == b"1\n"
    with pytest.raises(NotSupported, match="asyncio"):
        troth.at.connect(database.with_driver("postgresql+asyncpg"))


async def test_a_function_that_may_write_is_refused_however_it_is_called(database, connection):
    """Its rows would have no image, so a rollback would leave them."""
    database.run(
        "CREATE FUNCTION paid() RETURNS int LANGUAGE sql AS 'UPDATE account SET balance = 0 WHERE id = 1 RETURNING 1'"
    )
    database.run("CREATE FUNCTION seen() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1'")
    statement = await connection.prepare("SELECT paid()")
    async with undone(database):
        assert await connection.fetchval("SELECT seen()") == 1
        for call in (connection.fetch, connection.fetchrow, connection.fetchval, connection.execute):
            with pytest.raises(NotSupported, match="function paid is VOLATILE"):
                await call("SELECT paid()")
        with pytest.raises(NotSupported, match="function paid is VOLATILE"):
            await connection.execute("UPDATE account SET balance = paid() WHERE id = $1", 2)
        with pytest.raises(NotSupported, match="function paid is VOLATILE"):
            await connection.copy_from_query("SELECT paid()", output=BytesIO())
        for call in (statement.fetch, statement.fetchval, statement.explain):
            with pytest.raises(NotSupported, match="function paid is VOLATILE"):
                await call(**({"analyze": True} if call == statement.explain else {}))
        with pytest.raises(NotSupported, match="whether the functions paid only read"):
            connection.cursor("SELECT paid()")
    assert await connection.fetchval("SELECT paid()") == 1


async def test_the_servers_version_is_known(connection):
    """From 18 on the images of one statement need no CTE."""
    assert connection.at._info.server_version == await connection.fetchval(
        "SELECT current_setting('server_version_num')::int"
    )


async def test_errors_are_asyncpgs(connection):
    async with troth.transaction(name="buy"):
        with pytest.raises(asyncpg.UndefinedColumnError):
            await connection.execute("UPDATE account SET balance = nope")
        with pytest.raises(asyncpg.InterfaceError, match="expects 1 argument for this query, 2 were passed"):
            await connection.execute("DELETE FROM account WHERE id = $1", 1, 2)
        with pytest.raises(asyncpg.DataError):
            await connection.execute("DELETE FROM account WHERE id = $1", "one")
        assert await connection.fetchval("SELECT count(*) FROM account") == 3


async def test_outside_of_a_global_transaction(database, connection):
    await connection.copy_records_to_table("pair", records=[(5, "x", 1)])
    rows = await connection.fetch("DELETE FROM pair WHERE a = $1 RETURNING *", 5)
    assert (type(rows[0]), tuple(rows[0])) == (asyncpg.Record, (5, "x", 1))
    await connection.execute("UPDATE pair SET v = 0; UPDATE pair SET v = 1")
    statement = await connection.prepare("SELECT v FROM pair WHERE a = $1 LIMIT 1")
    assert await statement.fetchrow(1) == (1,)
    assert database.undo_rows() == 0


async def test_values_of_every_kind_come_back_bit_for_bit(database, connection):
    database.run(
        "DROP TABLE IF EXISTS kinds",
        "CREATE TABLE kinds (id uuid PRIMARY KEY, n numeric, d double precision, r real, t timestamptz, j jsonb, "
        "b bytea, a text[], m money, x text, i interval, k inet)",
        "INSERT INTO kinds VALUES ('6b0c8b1e-98c1-4b61-9d0c-0c2d7b0e1f11', 1.100, 0.1, 0.1, "
        "'2024-02-29 23:59:59.123456+02', '{{\"a\": [1, null]}}', '\\x00ff', '{{a,NULL,\"b,c\"}}', '12.34', "
        "'back\\slash ''quoted''', '1 mon 2 days 00:00:03.5', '10.0.0.1/24')",
    )
    key = UUID("6b0c8b1e-98c1-4b61-9d0c-0c2d7b0e1f11")
    async with undone(database):
        await connection.execute(
            "UPDATE kinds SET n = $2, d = $3, t = $4, j = $5, b = $6, a = $7, x = $8, i = NULL, k = NULL, r = 1 "
            "WHERE id = $1",
            key, Decimal("9.99"), 1e300, datetime(2020, 1, 1, tzinfo=UTC), "[]", b"\x00", [None, "z"], "y",
        )  # fmt: skip
        assert await connection.fetchval("SELECT n FROM kinds WHERE id = $1", key) == Decimal("9.99")
        await connection.execute("DELETE FROM kinds WHERE id = $1", key)
    database.run("DROP TABLE kinds")


async def test_a_pool(database):
    async with at_asyncpg.create_pool(database.with_driver("postgresql+asyncpg"), min_size=1, max_size=2) as pool:
        async with undone(database):
            await asyncio.gather(*(pool.execute("UPDATE account SET balance = 0 WHERE id = $1", n) for n in (1, 2, 3)))
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute("DELETE FROM pair")
            assert database.undo_rows() == 4


async def test_tasks_share_a_connection_statement_by_statement(database, connection):
    async def add(name: str) -> None:
        async with troth.join(None), troth.transaction(name=name):
            await connection.execute("INSERT INTO account (name) VALUES ($1)", name)
            if name == "b":
                raise Undo

    done = await asyncio.gather(*map(add, "abc"), return_exceptions=True)
    assert [type(one) for one in done] == [type(None), Undo, type(None)]
    assert sorted(database.rows("SELECT name FROM account WHERE id > 3")) == [("a",), ("c",)]


async def test_what_is_open_when_the_whole_ends_is_rolled_back(database, connection):
    before = database.dump()
    with pytest.raises(Undo):
        async with troth.transaction(name="buy"):
            await connection.execute("BEGIN")
            await connection.execute("DELETE FROM account")
            raise Undo
    assert await connection.fetchval("SELECT count(*) FROM account") == 3
    assert not connection.is_in_transaction()
    assert database.dump() == before


async def test_round_trips(connection, monkeypatch):
    """docs/integrations/asyncpg.md names the number; each of these calls is one trip once statements are prepared."""
    calls = []
    for name in ("at_simple", "at_fetch"):
        real = getattr(at_asyncpg.Connection, name)

        def counted(self, sql, *arguments, _real=real, **options):
            calls.append(sql)
            return _real(self, sql, *arguments, **options)

        monkeypatch.setattr(at_asyncpg.Connection, name, counted)
    async with troth.transaction(name="buy"):
        await connection.execute("UPDATE account SET balance = 1 WHERE id = $1", 1)
        calls.clear()
        await connection.execute("UPDATE account SET balance = 2 WHERE id = $1", 1)
    assert len(calls) == 4, calls


async def test_a_connection_that_looks_for_a_primary_server(database):
    """asyncpg asks the server before AT has begun."""
    made = await troth.at.connect_async(database.with_driver("postgresql+asyncpg") + "?target_session_attrs=read-write")
    async with undone(database):
        await made.execute("DELETE FROM account")
    await made.close()


async def test_a_connection_lost_in_commit(database, connection, monkeypatch):
    """The undo row says whether COMMIT was done: here it was, before its answer was lost."""
    real = at_asyncpg.Connection.at_simple

    async def cut(self, sql):
        status = await real(self, sql)
        if sql.endswith("COMMIT"):
            raise ConnectionResetError("gone")
        return status

    monkeypatch.setattr(at_asyncpg.Connection, "at_simple", cut)
    async with undone(database):
        await connection.execute("UPDATE account SET balance = 7 WHERE id = 1")
        assert database.undo_rows() == 1


@pytest.mark.parametrize(
    ("given", "sql", "count"),
    [
        ("SELECT $1, $2, $1", "SELECT %(1)s, %(2)s, %(1)s", 2),
        ("SELECT '$1', \"$1\", $$ $1 $$, $a$ $2 $a$ -- $1\n, /* $1 */ a$1, E'\\'$1'", None, 0),
        ("SELECT name'\\', $1, '$2'", "SELECT name'\\', %(1)s, '$2'", 1),
        ("SELECT 5 % $1 || '%'", "SELECT 5 %% %(1)s || '%%'", 1),
    ],
)
def test_texts(given, sql, count):
    made = to_dialect(given)
    assert (made.sql, made.count) == (given.replace("%", "%%") if sql is None else sql, count)
    back, names = from_dialect(made.sql)
    assert back == given
    assert len(names) == count


def test_literals():
    sql = with_literals("%s, %s, %s, %s, %s, %s, 1%%2", (None, True, -5, "a'\\b", b"\x00", 7))
    assert sql == "NULL, true, (-5),  E'a''\\\\b',  E'\\\\x00'::bytea, 7, 1%2"
    with pytest.raises(TypeError):
        literal(1.5)


def test_urls():
    made = parse_url(
        "postgresql+asyncpg://u:p@h:5/db?ssl=require&currentSchema=a,b&connect_timeout=3&application_name=x"
    )
    assert dict(made.arguments) == {
        "user": "u", "password": "p", "host": "h", "port": "5", "database": "db", "ssl": "require", "timeout": 3.0,
        "server_settings": {"options": "-c search_path=a,b", "application_name": "x"},
    }  # fmt: skip
    with pytest.raises(ValueError, match="keepalives"):
        parse_url("postgresql+asyncpg://h/db?keepalives=1")
