"""SQLAlchemy, sync and async, on XA connections: a whole coordinator, real databases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import troth
from fixtures_coordinator import until
from troth.integrations import sqlalchemy_xa

pytestmark = pytest.mark.engines


class Base(DeclarativeBase):
    pass


class Stock(Base):
    __tablename__ = "stock"
    id: Mapped[int] = mapped_column(primary_key=True)
    count: Mapped[int]


@pytest.mark.parametrize("kind", ["postgres", "mariadb"])
def test_sync_engine(kind: str, request: pytest.FixtureRequest) -> None:
    make: Callable[[], str] = request.getfixturevalue(f"new_{kind}_database")
    with troth.embedded(retry__min="20ms"):
        engine = sqlalchemy_xa.create_engine(make())
        Base.metadata.create_all(engine)
        with troth.transaction(name="purchase"), Session(engine) as session, session.begin():
            session.add(Stock(id=1, count=10))

        def failing() -> None:
            with troth.transaction(name="purchase"):
                with Session(engine) as session, session.begin():
                    session.get_one(Stock, 1).count -= 2
                raise LookupError

        def count() -> int:
            with Session(engine) as session:
                return session.get_one(Stock, 1).count

        until(lambda: count() == 10)
        with pytest.raises(LookupError):
            failing()
        assert count() == 10
        engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_async_engine(driver: str, new_postgres_database: Callable[[], str]) -> None:
    url = new_postgres_database().replace("postgresql:", f"postgresql+{driver}:")

    async def run() -> None:
        engine = sqlalchemy_xa.create_async_engine(url)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with troth.transaction(name="purchase"), AsyncSession(engine) as session, session.begin():
            session.add(Stock(id=1, count=10))

        async def failing() -> None:
            async with troth.transaction(name="purchase"):
                async with AsyncSession(engine) as session, session.begin():
                    (await session.get_one(Stock, 1)).count -= 2
                async with engine.connect() as other:
                    held = await other.execute(sa.text("SELECT count(*) FROM pg_prepared_xacts"))
                    assert held.scalar_one() == 1
                raise LookupError

        with pytest.raises(LookupError):
            await failing()
        async with AsyncSession(engine) as session:
            assert (await session.get_one(Stock, 1)).count == 10
        await engine.dispose()

    with troth.embedded(retry__min="20ms"):
        asyncio.run(run())
