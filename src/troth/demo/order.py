"""The order service: has the account debited, then writes the order."""

from __future__ import annotations

from collections.abc import Callable

import httpx
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

from troth.demo.local import local_transaction
from troth.demo.scenario import PRICE
from troth.integrations.fastapi import add_troth


class Order(BaseModel):
    """Who orders how many pieces of what."""

    user: str
    commodity: str
    count: int = Field(gt=0)


def create_app(database: str, account: httpx.Client, after_commit: Callable[[], None]) -> FastAPI:
    """The service over the database with the URL `database`; it calls the account service by `account`."""
    app = FastAPI(title="order")
    add_troth(app)  # a request joins its caller's transaction

    @app.post("/orders", status_code=204)
    def create(wanted: Order) -> None:
        money = wanted.count * PRICE
        debited = account.post("/debits", json={"user": wanted.user, "money": money})  # the xid rides in a header
        if debited.status_code == 409:
            raise HTTPException(409, debited.json()["detail"])
        debited.raise_for_status()
        with local_transaction(database) as run:
            run(
                "INSERT INTO order_tbl (user_id, commodity_code, count, money) VALUES (?, ?, ?, ?)",
                wanted.user,
                wanted.commodity,
                wanted.count,
                money,
            )
        after_commit()

    return app
