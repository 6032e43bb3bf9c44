"""The orders service: it begins the global transaction, writes the order, and calls the stock service."""

import os
from typing import Any

import httpx
import sqlalchemy as sa
from flask import Flask, jsonify, request
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import troth
from troth.integrations.httpx import install
from troth.integrations.sqlalchemy import create_engine
from troth.integrations.wsgi import TrothMiddleware

URL = f"sqlite:///{os.environ['DATABASE']}"
engine = create_engine(URL)
# Flask's development server, like many others, drops header names with an underscore: TX-XID in the place of TX_XID.
stock = install(httpx.Client(base_url=os.environ["STOCK"], timeout=30), header="TX-XID")
app = Flask(__name__)
app.wsgi_app = TrothMiddleware(app.wsgi_app)  # type: ignore[method-assign]


class Base(DeclarativeBase):
    """The tables of this service."""


class Order(Base):
    """What was bought."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    commodity: Mapped[str] = mapped_column(sa.String(40))
    count: Mapped[int]


class Refused(Exception):
    """The customer gets this answer, and nothing is bought."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


@app.errorhandler(Refused)
def refused(error: Refused) -> Any:
    """The answer."""
    return jsonify(detail=str(error)), error.status


@app.post("/orders")
def buy() -> Any:
    """Buy. An exception undoes what both services have committed."""
    wanted = request.get_json()
    with troth.transaction(name="buy"):
        with Session(engine) as db, db.begin():
            db.add(Order(commodity=wanted["commodity"], count=wanted["count"]))
        answer = stock.post("/deduct", json={"commodity": wanted["commodity"], "count": wanted["count"]})
        if answer.is_error:
            raise Refused(answer.status_code, answer.json()["detail"])
        if not wanted["paid"]:
            raise Refused(402, "the payment was refused")
    return jsonify(status="ok")


@app.get("/orders")
def show() -> Any:
    """All orders."""
    with Session(engine) as db:
        rows = db.scalars(sa.select(Order).order_by(Order.id))
        return jsonify(orders=[{"commodity": row.commodity, "count": row.count} for row in rows])


def main() -> None:
    """Make the tables, connect to the coordinator, serve."""
    troth.at.init(URL)
    with troth.init(coordinator=os.environ["COORDINATOR"], application="orders"):
        Base.metadata.create_all(engine)
        app.run(port=int(os.environ["PORT"]), threaded=True)


if __name__ == "__main__":
    main()
