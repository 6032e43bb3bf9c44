"""`create_async_engine` on every driver: ORM and Core inside a global transaction, on real databases."""

# ruff: noqa: PT012 - the point of most blocks is what was done before they fail

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.ext import asyncio as sa_asyncio
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import troth
from troth.client.errors import LockConflict, NotSupported
from troth.integrations.sqlalchemy import create_async_engine, create_engine, protect

pytestmark = [pytest.mark.engines, pytest.mark.usefixtures("troth_client")]

DRIVERS = [
    "sqlite+aiosqlite",
    "postgresql+psycopg",
    "postgresql+asyncpg",
    pytest.param("mysql+asyncmy", marks=pytest.mark.soak),
]


class Undo(Exception):
    """Ends a global transaction without a commit."""


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(sa.String(40))
    balance: Mapped[float] = mapped_column(sa.Numeric(12, 2, asdecimal=False))


@pytest.fixture(params=DRIVERS)
def driver(request):
    return request.param


@pytest.fixture
def database(shop, driver):
    return shop(driver.partition("+")[0])


@pytest.fixture
async def engine(database, driver):
    made = create_async_engine(database.with_driver(driver))
    yield made
    await made.dispose()


async def change(session: sa_asyncio.AsyncSession) -> None:
    """Flush of changed, deleted and new objects; bulk statements; a savepoint."""
    (await session.get_one(Account, 1)).balance = 42
    await session.delete(await session.get_one(Account, 2))
    session.add_all([Account(name=f"n{i}", balance=i) for i in range(3)])
    await session.flush()
    nested = await session.begin_nested()
    session.add(Account(name="taken back", balance=0))
    await session.flush()
    await nested.rollback()
    await session.execute(sa.update(Account).where(Account.name.like("n%")).values(balance=Account.balance + 1))
    await session.execute(
        sa.insert(Account), [{"id": 20, "name": "p", "balance": 1}, {"id": 21, "name": "q", "balance": 2}]
    )


AFTER = [("ann", 42), ("cem", 7), ("n0", 1), ("n1", 2), ("n2", 3), ("p", 1), ("q", 2)]


async def test_orm_committed(database, engine):
    async with troth.transaction(name="buy"), sa_asyncio.AsyncSession(engine) as session, session.begin():
        await change(session)
    assert database.rows("SELECT name, balance FROM account ORDER BY id") == AFTER
    database.wait_until_settled()


async def test_orm_rolled_back_by_the_global(database, engine):
    before = database.dump()
    session = sa_asyncio.AsyncSession(engine, expire_on_commit=False)
    with pytest.raises(Undo):
        async with troth.transaction(name="buy"):
            async with session.begin():
                ann = await session.get_one(Account, 1)
                await change(session)
            assert database.undo_rows() == 1
            raise Undo
    assert database.dump() == before
    # The identity map remembers what is undone, until it is told (the module's docstring says so).
    assert await session.get_one(Account, 1) is ann
    assert ann.balance == 42
    session.expire_all()
    assert (await session.get_one(Account, 1)).balance == 100
    await session.close()


async def test_a_row_of_another_global_transaction(database, engine):
    async with troth.transaction(name="first"):
        async with engine.begin() as connection:
            await connection.execute(sa.update(Account).where(Account.id == 1).values(balance=1))
        async with troth.join(None), troth.transaction(name="second"):
            connection = await engine.connect()
            await connection.execute(sa.update(Account).where(Account.id == 2).values(balance=1))
            await connection.commit()
            with pytest.raises(LockConflict):
                await connection.execute(sa.update(Account).where(Account.id == 1).values(balance=2))
                await connection.commit()
            await connection.close()
    assert database.rows("SELECT balance FROM account ORDER BY id") == [(1,), (1,), (7,)]


async def test_outside_of_a_global_transaction(database, engine):
    async with sa_asyncio.AsyncSession(engine) as session, session.begin():
        await change(session)
    assert database.undo_rows() == 0
    assert database.rows("SELECT name, balance FROM account ORDER BY id") == AFTER


async def test_core_returning_autocommit_and_a_refusal(database, engine):
    before = database.dump()
    accounts = Account.__table__
    with pytest.raises(Undo):
        async with troth.transaction(name="buy"):
            async with engine.begin() as connection:
                made = await connection.execute(sa.insert(accounts).values(name="x", balance=1))
                assert made.inserted_primary_key == (4,)
                changed = sa.update(accounts).where(accounts.c.id < 3).values(balance=0)
                if database.kind == "mysql":  # MariaDB has no UPDATE … RETURNING
                    assert (await connection.execute(changed)).rowcount == 2
                else:
                    result = await connection.execute(changed.returning(accounts.c.name))
                    assert sorted(row.name for row in result) == ["ann", "bob"]
                assert (await connection.execute(sa.delete(accounts).where(accounts.c.id == 3))).rowcount == 1
                async with connection.stream(sa.select(accounts.c.id).order_by(accounts.c.id)) as rows:
                    assert [row.id async for row in rows] == [1, 2, 4]
            async with engine.connect() as plain:
                connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
                await connection.execute(sa.update(accounts).where(accounts.c.id == 4).values(balance=2))
                assert database.undo_rows() == 2
                with pytest.raises(NotSupported):
                    await connection.execute(sa.text("CREATE TABLE other (id INTEGER PRIMARY KEY)"))
            raise Undo
    assert database.dump() == before


async def test_protect_an_engine_of_the_users(database, driver):
    engine = sa_asyncio.create_async_engine(database.with_driver(driver))
    protect(engine)
    before = database.dump()
    with pytest.raises(Undo):
        async with troth.transaction(name="buy"):
            async with engine.begin() as connection:
                await connection.execute(sa.delete(Account))
            raise Undo
    assert database.dump() == before
    with pytest.raises(ValueError, match="already"):
        protect(engine)
    await engine.dispose()


def test_protect_a_sync_engine(shop):
    database = shop("sqlite")
    engine = sa.create_engine(database.url)
    protect(engine)
    before = database.dump()
    with pytest.raises(Undo), troth.transaction(name="buy"):
        with engine.begin() as connection:
            connection.execute(sa.delete(Account))
        raise Undo
    engine.dispose()
    assert database.dump() == before
    sync = create_engine(database.url)
    with troth.transaction(name="buy"), sync.begin() as connection:
        connection.execute(sa.delete(Account).where(Account.id == 1))
    sync.dispose()
    assert len(database.rows("SELECT * FROM account")) == 2


def test_a_driver_that_at_does_not_have():
    with pytest.raises(NotSupported, match=r"mysql\+mysqldb"):
        protect(_engine_of("mysql+mysqldb"))


async def test_an_asyncio_driver_that_at_does_not_have():
    with pytest.raises(NotSupported, match=r"mysql\+aiomysql"):
        protect(sa_asyncio.AsyncEngine(_engine_of("mysql+aiomysql")))


def _engine_of(name):
    class Dialect:
        is_async = True
        driver = name.partition("+")[2]

    class Engine:
        dialect = Dialect()

    Dialect.name = name.partition("+")[0]
    return Engine()
