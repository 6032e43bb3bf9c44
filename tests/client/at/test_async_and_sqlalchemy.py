"""The other ways to the same connection: aiosqlite, SQLAlchemy, the flow runners."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import troth.at
from troth.client.context import join
from troth.client.drivers.running import arun, run
from troth.client.errors import LockConflict, NotSupported
from troth.client.flow import Invoke, Pause, Query, Rows, Tell
from troth.integrations.sqlalchemy import create_engine
from troth.wire.seata.messages import GlobalStatusRequest, GlobalStatusResponse

A, B = "10.0.0.1:8091:1", "10.0.0.1:8091:2"


async def test_aiosqlite(database, coordinator):
    before = database.dump()
    connection = await troth.at.connect_async(database.url, client=coordinator)
    try:
        await connection.execute("UPDATE account SET name = 'outside' WHERE id = 3")
        await connection.rollback()
        async with join(A):
            cursor = await connection.execute("UPDATE account SET balance = ? WHERE id = ? RETURNING name", (1, 1))
            assert await cursor.fetchall() == [("ann",)]
            assert cursor.rowcount == 1
            await connection.executemany("INSERT INTO pair VALUES (?, ?, ?)", [(8, "x", 1), (9, "x", 1)])
            with pytest.raises(NotSupported):
                await connection.executescript("DELETE FROM account")
            async with connection.execute("SELECT count(*) FROM pair") as cursor:
                assert await cursor.fetchone() == (5,)
            await connection.commit()
    finally:
        await connection.close()
    assert coordinator.lock_texts == ["account:1;pair:8_x,9_x"]
    await asyncio.to_thread(coordinator.rollback, A)
    assert database.dump() == before


async def test_tasks_have_their_own_xid(database, coordinator):
    async def work(xid, name):
        async with join(xid):
            connection = await troth.at.connect_async(database.url, client=coordinator, isolation_level=None)
            try:
                await connection.execute("INSERT INTO account (name) VALUES (?)", (name,))
            finally:
                await connection.close()

    await asyncio.gather(work(A, "a"), work(B, "b"), work(None, "c"))
    assert sorted(request.xid for _, request in coordinator.branches) == [A, B]
    coordinator.rollback(A)
    coordinator.commit(B)
    assert database.rows("SELECT name FROM account WHERE id > 3 ORDER BY name") == [("b",), ("c",)]


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    balance: Mapped[float | None]


@pytest.fixture
def engine(database, coordinator):
    made = create_engine(database.url, client=coordinator)
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
    assert database.rows("SELECT id, name, balance FROM account ORDER BY id") == [
        (1, "ann", 42.0),
        (3, None, -1.0),
        (4, "n0", 1.0),
        (5, "n1", 2.0),
        (6, "n2", 3.0),
    ]
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
        connection.execute(sa.text("REPLACE INTO account (id, name) VALUES (50, 'outside')"))
    coordinator.commit(A)
    assert [row[0] for row in database.rows("SELECT id FROM account")] == [1, 2, 3, 4, 6, 50]


def test_sqlalchemy_autocommit(database, coordinator, engine):
    with join(A), engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("UPDATE account SET balance = 0 WHERE id = :id"), {"id": 1})
        assert len(coordinator.branches) == 1


class Recorder:
    """Both kinds of executor and coordinator."""

    def tell(self, message):
        return GlobalStatusResponse()

    async def atell(self, message):
        return self.tell(message)


class Executor:
    def query(self, step):
        if step.sql == "fail":
            raise LookupError("no")
        return Rows(("a",), [(1,)], 1, None)


class AsyncExecutor:
    async def query(self, step):
        return Executor().query(step)


def flow():
    seen = [
        (yield Query("x")),
        (yield Tell(GlobalStatusRequest("x"))),
        (yield Pause(0)),
        (yield Invoke(divmod, (7, 2))),
    ]
    try:
        yield Query("fail")
    except LookupError as error:
        seen.append(str(error))
    return seen


EXPECTED = [Rows(("a",), [(1,)], 1, None), GlobalStatusResponse(), None, (3, 1), "no"]


def test_run():
    assert run(flow(), Executor(), Recorder()) == EXPECTED


async def test_arun():
    assert await arun(flow(), AsyncExecutor(), Recorder()) == EXPECTED

    async def later():
        return "awaited"

    def awaits():
        return (yield Invoke(later))

    assert await arun(awaits(), AsyncExecutor(), Recorder()) == "awaited"
