"""The orders service: it begins the global transaction, writes the order, and calls the stock service."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import troth
from troth.integrations.fastapi import add_troth
from troth.integrations.httpx import install
from troth.integrations.sqlalchemy import create_async_engine

URL = f"sqlite+aiosqlite:///{os.environ['DATABASE']}"
engine = create_async_engine(URL)
stock = install(httpx.AsyncClient(base_url=os.environ["STOCK"], timeout=30))  # sends the xid along


class Base(DeclarativeBase):
    """The tables of this service."""


class Order(Base):
    """What was bought."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    commodity: Mapped[str] = mapped_column(sa.String(40))
    count: Mapped[int]


class Wanted(BaseModel):
    """What a customer sends."""

    commodity: str
    count: int
    paid: bool = True


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Make the tables, and connect to the coordinator."""
    troth.at.init(URL)
    with troth.init(coordinator=os.environ["COORDINATOR"], application="orders"):
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        yield
        await engine.dispose()


app = FastAPI(lifespan=lifespan)
add_troth(app)


@app.post("/orders")
async def buy(wanted: Wanted) -> dict[str, str]:
    """Buy. An exception undoes what both services have committed."""
    async with troth.transaction(name="buy"):
        async with AsyncSession(engine) as db, db.begin():
            db.add(Order(commodity=wanted.commodity, count=wanted.count))
        answer = await stock.post("/deduct", json={"commodity": wanted.commodity, "count": wanted.count})
        if answer.is_error:
            raise HTTPException(answer.status_code, answer.json()["detail"])
        if not wanted.paid:
            raise HTTPException(402, "the payment was refused")
    return {"status": "ok"}


@app.get("/orders")
async def show() -> dict[str, object]:
    """All orders."""
    async with AsyncSession(engine) as db:
        rows = await db.scalars(sa.select(Order).order_by(Order.id))
        return {"orders": [{"commodity": row.commodity, "count": row.count} for row in rows]}


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]), log_level="warning")
