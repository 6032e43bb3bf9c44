"""The other ways to the same connection: psycopg's asyncio side, and SQLAlchemy."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import troth.at
from troth.client.context import join
from troth.client.errors import LockConflict, NotSupported
from troth.integrations.sqlalchemy import create_engine

pytestmark = pytest.mark.engines

A, B = "10.0.0.1:8091:1", "10.0.0.1:8091:2"


async def test_async_connection(database, coordinator):
    before = database.dump()
    connection = await troth.at.connect_async(database.url, client=coordinator)
    try:
        await connection.execute("UPDATE account SET name = 'outside' WHERE id = 3")
        await connection.rollback()
        async with join(A):
            cursor = await connection.execute("UPDATE account SET balance = %s WHERE id = %s RETURNING name", (1, 1))
            assert await cursor.fetchall() == [("ann",)]
            assert (cursor.rowcount, cursor.statusmessage) == (1, "UPDATE 1")
            await connection.cursor().executemany("INSERT INTO pair VALUES (%s, %s, %s)", [(8, "x", 1), (9, "x", 1)])
            async with connection.transaction():
                await connection.execute("DELETE FROM pair WHERE a = 1")
                with pytest.raises(psycopg.ProgrammingError):
                    await connection.commit()
            async with connection.transaction() as block:
                await connection.execute("DELETE FROM account")
                raise psycopg.Rollback(block)
            with pytest.raises(NotSupported):
                await connection.execute("TRUNCATE account")
            assert [row async for row in await connection.execute("SELECT count(*) FROM pair")] == [(3,)]
            async with connection.cursor("named") as cursor:
                await cursor.execute("SELECT id FROM account ORDER BY id")
                assert await cursor.fetchone() == (1,)
            await connection.commit()
    finally:
        await connection.close()
    assert coordinator.lock_texts == ["account:1;pair:8_x,9_x,1_x,1_y"]
    await asyncio.to_thread(coordinator.rollback, A)
    assert database.dump() == before


async def test_async_autocommit_and_conflict(database, coordinator):
    connection = await troth.at.connect_async(database.url, client=coordinator, autocommit=True)
    try:
        async with join(A):
            await connection.execute("UPDATE account SET balance = 1 WHERE id = 1")
        async with join(B):
            with pytest.raises(LockConflict):
                await connection.execute("UPDATE account SET balance = 1 WHERE id = 1")
    finally:
        await connection.close()
    await asyncio.to_thread(coordinator.commit, A)
    assert database.undo_rows() == []


async def test_tasks_share_a_connection_statement_by_statement(database, coordinator):
    connection = await troth.at.connect_async(database.url, client=coordinator, autocommit=True)

    async def work(xid, name):
        async with join(xid):
            await connection.execute("INSERT INTO account (name) VALUES (%s)", (name,))

    try:
        await asyncio.gather(*(work(xid, name) for xid in (A, B, None) for name in "abc"))
    finally:
        await connection.close()
    assert sorted(request.xid for _, request in coordinator.branches) == [A] * 3 + [B] * 3
    await asyncio.to_thread(coordinator.rollback, A)
    await asyncio.to_thread(coordinator.commit, B)
    assert database.rows("SELECT count(*) FROM account") == [(9,)]


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    balance: Mapped[float | None] = mapped_column(sa.Numeric(12, 2))


@pytest.fixture(params=["postgresql", "postgresql+psycopg"])
def engine(database, coordinator, request):
    made = create_engine(database.url.replace("postgresql", request.param, 1), client=coordinator)
    yield made
    made.dispose()


def test_sqlalchemy_orm(database, coordinator, engine):
    before = database.dump()
    with join(A), Session(engine) as session, session.begin():
        session.get_one(Account, 1).balance = 42
        session.delete(session.get_one(Account, 2))
        session.add_all([Account(name=f"n{i}", balance=i) for i in range(3)])
        session.flush()
        with session.begin_nested() as nested:
            session.add(Account(name="taken back"))
            session.flush()
            nested.rollback()
        session.execute(sa.update(Account).where(Account.name.like("n%")).values(balance=Account.balance + 1))
        assert session.scalars(sa.select(Account).where(Account.id == 3).with_for_update()).one().name is None
    names = database.rows("SELECT name, balance FROM account ORDER BY id")
    assert names == [("ann", 42), (None, -1), ("n0", 1), ("n1", 2), ("n2", 3)]
    assert len(coordinator.branches) == 1
    coordinator.rollback(A)
    assert database.dump() == before


def test_sqlalchemy_core_and_errors(database, coordinator, engine):
    accounts = Account.__table__
    with join(A), engine.begin() as connection:
        assert connection.execute(sa.insert(accounts).values(name="x")).inserted_primary_key == (4,)
        rows = connection.execute(sa.insert(accounts).returning(accounts.c.id), [{"name": "y"}, {"name": "z"}])
        assert rows.all() == [(5,), (6,)]
        assert connection.execute(sa.delete(accounts).where(accounts.c.id == 5)).rowcount == 1
    with join(B):
        connection = engine.connect()
        connection.execute(sa.update(accounts).where(accounts.c.id == 6).values(name="mine"))
        with pytest.raises(LockConflict):
            connection.commit()
        connection.close()
    with engine.begin() as connection:
        connection.execute(sa.text("TRUNCATE pair"))
    coordinator.commit(A)
    assert [row[0] for row in database.rows("SELECT id FROM account ORDER BY id")] == [1, 2, 3, 4, 6]


def test_sqlalchemy_autocommit_and_json(database, coordinator, engine):
    database.run("CREATE TABLE notes (id int PRIMARY KEY, body jsonb)")
    notes = sa.table("notes", sa.column("id", sa.Integer), sa.column("body", sa.JSON))
    with join(A), engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.insert(notes).values(id=1, body={"a": [1, None]}))
        assert len(coordinator.branches) == 1
        connection.execute(sa.update(notes).values(body=[1]))
    coordinator.rollback(A)
    assert database.rows("SELECT * FROM notes") == []
