"""Isolation for coroutines: psycopg, asyncpg and aiosqlite; and SQLAlchemy's with_for_update."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

import troth
from troth.client.context import join
from troth.client.errors import LockConflict
from troth.integrations.sqlalchemy import create_engine

pytestmark = pytest.mark.engines


@pytest.mark.parametrize("driver", ["postgresql", "postgresql+asyncpg"])
async def test_read_committed_and_global_lock_on_postgres(new_shop, driver):
    shop = new_shop("postgresql")
    writer = shop.connect(autocommit=True)
    url = shop.url.replace("postgresql://", f"{driver}://")
    options = {} if "asyncpg" in driver else {"autocommit": True}
    reader = await troth.at.connect_async(url, client=shop.client, **options)
    try:
        async with troth.transaction():
            writer.set(0)
            with join(None):
                async with troth.transaction(isolation="read_committed"):
                    with pytest.raises(LockConflict):
                        await reader.execute("SELECT balance FROM account WHERE id = 1")
                async with troth.global_lock():
                    with pytest.raises(LockConflict):
                        await reader.execute("UPDATE account SET balance = 7 WHERE id = 1")
                    await reader.execute("UPDATE account SET balance = 8 WHERE id = 2")
    finally:
        await reader.close()
    assert (shop.balance(), shop.balance(2)) == (0, 8)


async def test_read_committed_on_aiosqlite(new_shop):
    shop = new_shop("sqlite")
    writer = shop.connect(autocommit=True)
    reader = await troth.at.connect_async(shop.url, client=shop.client, isolation_level=None)

    @troth.global_lock(isolation="read_committed")
    async def read():
        cursor = await reader.execute("SELECT balance FROM account WHERE id = 1")
        return (await cursor.fetchone())[0]

    try:
        async with troth.transaction():
            writer.set(0)
            with join(None), pytest.raises(LockConflict):
                await read()
        assert await read() == 0
    finally:
        await reader.close()


@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_sqlalchemys_with_for_update(new_shop, engine):
    shop = new_shop(engine)
    writer = shop.connect(autocommit=True)
    url = shop.url.replace("mysql://", "mysql+pymysql://").replace("postgresql://", "postgresql+psycopg://")
    account = sa.table("account", sa.column("id"), sa.column("balance"))
    select = sa.select(account.c.balance).where(account.c.id == 1)
    made = create_engine(url, client=shop.client)
    try:
        with troth.transaction():
            writer.set(0)
            with join(None), troth.transaction(), made.connect() as connection:
                assert connection.scalar(select) == 0
                with pytest.raises(LockConflict):
                    connection.scalar(select.with_for_update())
            with (
                join(None),
                troth.transaction(isolation="read_committed"),
                made.connect() as connection,
                pytest.raises(LockConflict),
            ):
                connection.scalar(select)
    finally:
        made.dispose()
