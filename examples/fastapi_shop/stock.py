"""The stock service: FastAPI and SQLAlchemy async. It takes part in whatever transaction its caller is in."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import troth
from troth.integrations.fastapi import add_troth
from troth.integrations.sqlalchemy import create_async_engine

URL = f"sqlite+aiosqlite:///{os.environ['DATABASE']}"  # or postgresql+asyncpg://user@host/shop
engine = create_async_engine(URL)


class Base(DeclarativeBase):
    """The tables of this service."""


class Stock(Base):
    """How many pieces of a commodity there are."""

    __tablename__ = "stock"
    commodity: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    count: Mapped[int]


class Deduction(BaseModel):
    """What a caller wants."""

    commodity: str
    count: int


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Make the tables, then connect once: the coordinator learns who serves this database."""
    troth.at.init(URL)
    with troth.init(coordinator=os.environ["COORDINATOR"], application="stock"):
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine) as db, db.begin():
            await db.merge(Stock(commodity="C00321", count=100))
        yield
        await engine.dispose()


app = FastAPI(lifespan=lifespan)
add_troth(app)


@app.post("/deduct")
async def deduct(wanted: Deduction) -> dict[str, str]:
    """Take pieces; 409 if there are not enough."""
    async with AsyncSession(engine) as db, db.begin():
        row = await db.get_one(Stock, wanted.commodity, with_for_update=True)
        if row.count < wanted.count:
            raise HTTPException(409, f"only {row.count} of {wanted.commodity} are left")
        row.count -= wanted.count
    return {"status": "ok"}


@app.get("/stock/{commodity}")
async def show(commodity: str) -> dict[str, object]:
    """What is there."""
    async with AsyncSession(engine) as db:
        row = await db.get_one(Stock, commodity)
        return {"commodity": row.commodity, "count": row.count}


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]), log_level="warning")
