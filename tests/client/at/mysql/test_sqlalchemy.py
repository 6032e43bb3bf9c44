"""SQLAlchemy (`mysql+pymysql`) on connections under AT."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.mysql import insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from troth.client.errors import LockConflict
from troth.integrations.sqlalchemy import create_engine

pytestmark = pytest.mark.engines

A, B = "10.0.0.1:8091:1", "10.0.0.1:8091:2"


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(sa.String(40))
    balance: Mapped[float | None]


@pytest.fixture
def engine(database, coordinator):
    url = database.url.replace("mysql://", "mysql+pymysql://")
    made = create_engine(url, client=coordinator)
    yield made
    made.dispose()


def test_orm(database, coordinator, engine, in_global):
    before = database.dump()
    with in_global(A), Session(engine) as session, session.begin():
        session.get_one(Account, 1).balance = 42
        session.delete(session.get_one(Account, 2))
        session.add_all([Account(name=f"n{i}", balance=i) for i in range(3)])
        session.flush()
        with session.begin_nested() as nested:
            session.add(Account(name="taken back", balance=0))
            session.flush()
            nested.rollback()
        session.execute(sa.update(Account).where(Account.name.like("n%")).values(balance=Account.balance + 1))
    assert database.rows("SELECT id, name, balance FROM account ORDER BY id") == [
        (1, "ann", 42),
        (3, None, -1),
        (4, "n0", 1),
        (5, "n1", 2),
        (6, "n2", 3),
    ]
    assert len(coordinator.branches) == 1
    coordinator.rollback(A)
    assert database.dump() == before


def test_an_update_to_the_same_values_is_no_stale_row(database, coordinator, engine, in_global):
    with in_global(A), Session(engine) as session, session.begin():
        account = session.get_one(Account, 2)
        session.execute(sa.text("UPDATE account SET balance = 7 WHERE id = 2"))
        account.balance = 7
    assert coordinator.lock_texts == ["account:2"]


def test_core_and_errors(database, coordinator, engine, in_global):
    accounts = Account.__table__
    with in_global(A), engine.begin() as connection:
        assert connection.execute(sa.insert(accounts).values(name="x")).inserted_primary_key == (4,)
        upsert = insert(accounts).values([{"name": "ann", "balance": 3}, {"name": "new", "balance": 3}])
        connection.execute(upsert.on_duplicate_key_update(balance=upsert.inserted.balance + 1))
        assert connection.execute(sa.delete(accounts).where(accounts.c.id == 4)).rowcount == 1
    with in_global(B):
        connection = engine.connect()
        connection.execute(sa.update(accounts).where(accounts.c.name == "ann").values(balance=0))
        with pytest.raises(LockConflict):
            connection.commit()
        connection.close()
    coordinator.commit(A)
    assert database.rows("SELECT name, balance FROM account ORDER BY id")[::3] == [("ann", 4), ("new", 3)]


def test_autocommit(database, coordinator, engine, in_global):
    with in_global(A), engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("UPDATE account SET balance = 0 WHERE id = :id"), {"id": 1})
        assert len(coordinator.branches) == 1
