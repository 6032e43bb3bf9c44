"""The stock service: takes pieces of a commodity out of the store."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

from troth.demo.local import local_transaction
from troth.integrations.fastapi import add_troth


class Deduction(BaseModel):
    """How many pieces of what."""

    commodity: str
    count: int = Field(gt=0)


def create_app(database: str, after_commit: Callable[[], None]) -> FastAPI:
    """The service over the database with the URL `database`; `after_commit` is called after each local commit."""
    app = FastAPI(title="stock")
    add_troth(app)  # a request joins its caller's transaction

    @app.post("/deductions", status_code=204)
    def deduct(wanted: Deduction) -> None:
        with local_transaction(database) as run:
            deducted = run(
                "UPDATE stock_tbl SET count = count - ? WHERE commodity_code = ? AND count >= ?",
                wanted.count,
                wanted.commodity,
                wanted.count,
            )
            if deducted != 1:
                raise HTTPException(409, f"not enough of {wanted.commodity} in stock")
        after_commit()

    return app
