"""The option through each door: the asyncio drivers, SQLAlchemy, the command line."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Integer, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from typer.testing import CliRunner

import troth
from troth.cli.main import app
from troth.client.context import join
from troth.integrations.sqlalchemy import protect
from troth.wire.seata.lock_wait import ModeRegisterRequest

HOT = {"stock.count": 0}


class Base(DeclarativeBase):
    pass


class Stock(Base):
    __tablename__ = "stock"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    count: Mapped[int]


def shared(sharing: Any) -> list[str | None]:
    return [one.lock_key for one in sharing.registered if isinstance(one, ModeRegisterRequest)]


async def _take(url: str, sharing: Any, sql: str, values: tuple[object, ...], **options: Any) -> None:
    connection = await troth.at.connect_async(url, client=sharing, additive=HOT, **options)
    try:
        with join("x:1:1"):
            await connection.execute(sql, *values)
        with join("x:1:2"), pytest.raises(troth.FloorReached):
            await connection.execute(sql.replace("- 3", "- 300"), *values)
    finally:
        await connection.close()


def test_aiosqlite(hot: Any, sharing: Any) -> None:
    if hot.engine != "sqlite":
        pytest.skip("a driver of SQLite")
    sql = "UPDATE stock SET count = count - 3 WHERE id = ?"
    asyncio.run(_take(hot.url, sharing, sql, ((1,),), isolation_level=None))
    assert (shared(sharing), hot.count()) == (["stock:1"], 7)


@pytest.mark.everywhere
@pytest.mark.parametrize("engine", [pytest.param("postgres", marks=pytest.mark.engines)], indirect=True)
def test_asyncpg_and_psycopg_async(hot: Any, sharing: Any) -> None:
    sql = "UPDATE stock SET count = count - 3 WHERE id = "
    asyncio.run(_take(hot.url, sharing, f"{sql}%s", ((1,),), autocommit=True))
    asyncio.run(_take(hot.url.replace("postgresql:", "postgresql+asyncpg:"), sharing, f"{sql}$1", (1,)))
    assert (shared(sharing), hot.count()) == (["stock:1"] * 2, 4)
    sharing.rollback("x:1:1")
    assert hot.count() == 10
    assert hot.is_clean()


def test_what_the_orm_writes_is_additive(hot: Any, sharing: Any) -> None:
    scheme = {"postgres": "postgresql+psycopg", "mariadb": "mysql+pymysql"}.get(hot.engine, "sqlite")
    engine = create_engine(scheme + hot.url[hot.url.index(":") :].partition("?")[0], connect_args={"additive": HOT})
    protect(engine, client=sharing)
    with join("x:1:1"), Session(engine) as session:
        stock = session.get_one(Stock, 1)
        stock.count = Stock.count - 4  # type: ignore[assignment]  # an expression: the database subtracts
        session.commit()
    engine.dispose()
    assert (shared(sharing), hot.count()) == (["stock:1"], 6)


def test_the_command_makes_the_table(tmp_path: Path) -> None:
    file = tmp_path / "shop.db"
    done = CliRunner().invoke(app, ["at", "init", "--hot-rows", f"sqlite:///{file}"])
    assert done.exit_code == 0, done.output
    assert "undo_log is there and troth_hot_rows" in done.output
    with closing(sqlite3.connect(file)) as raw:
        assert raw.execute("SELECT count(*) FROM troth_hot_rows").fetchone() == (0,)
