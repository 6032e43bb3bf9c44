"""The stock service: Flask and SQLAlchemy. It takes part in whatever transaction its caller is in."""

import os
from typing import Any

import sqlalchemy as sa
from flask import Flask, jsonify, request
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import troth
from troth.integrations.sqlalchemy import create_engine
from troth.integrations.wsgi import TrothMiddleware

URL = f"sqlite:///{os.environ['DATABASE']}"  # or postgresql://user@host/shop, mysql://…
engine = create_engine(URL)
app = Flask(__name__)
app.wsgi_app = TrothMiddleware(app.wsgi_app)  # type: ignore[method-assign]


class Base(DeclarativeBase):
    """The tables of this service."""


class Stock(Base):
    """How many pieces of a commodity there are."""

    __tablename__ = "stock"
    commodity: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    count: Mapped[int]


@app.post("/deduct")
def deduct() -> Any:
    """Take pieces; 409 if there are not enough."""
    wanted = request.get_json()
    with Session(engine) as db, db.begin():
        row = db.get_one(Stock, wanted["commodity"], with_for_update=True)
        if row.count < wanted["count"]:
            return jsonify(detail=f"only {row.count} of {row.commodity} are left"), 409
        row.count -= wanted["count"]
    return jsonify(status="ok")


@app.get("/stock/<commodity>")
def show(commodity: str) -> Any:
    """What is there."""
    with Session(engine) as db:
        row = db.get_one(Stock, commodity)
        return jsonify(commodity=row.commodity, count=row.count)


def main() -> None:
    """Make the tables, connect to the coordinator, serve."""
    troth.at.init(URL)
    with troth.init(coordinator=os.environ["COORDINATOR"], application="stock"):
        Base.metadata.create_all(engine)
        with Session(engine) as db, db.begin():
            db.merge(Stock(commodity="C00321", count=100))
        app.run(port=int(os.environ["PORT"]), threaded=True)


if __name__ == "__main__":
    main()
