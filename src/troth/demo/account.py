"""The account service: takes money from a user."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

from troth.demo.local import local_transaction
from troth.integrations.fastapi import add_troth


class Debit(BaseModel):
    """How much from whom."""

    user: str
    money: int = Field(gt=0)


def create_app(database: str, after_commit: Callable[[], None]) -> FastAPI:
    """The service over the database with the URL `database`; `after_commit` is called after each local commit."""
    app = FastAPI(title="account")
    add_troth(app)  # a request joins its caller's transaction

    @app.post("/debits", status_code=204)
    def debit(wanted: Debit) -> None:
        with local_transaction(database) as run:
            debited = run(
                "UPDATE account_tbl SET money = money - ? WHERE user_id = ? AND money >= ?",
                wanted.money,
                wanted.user,
                wanted.money,
            )
            if debited != 1:
                raise HTTPException(409, f"{wanted.user} has not enough money")
        after_commit()

    return app
