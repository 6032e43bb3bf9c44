"""FastAPI: `add_troth(app)`, and the caller's transaction as a parameter.

    app = FastAPI()
    add_troth(app)

    @app.post("/deduct")
    def deduct(order: Order, xid: CallerXid) -> None: ...     # sync or async; xid is None outside of a transaction

Handlers need no parameter for AT to work: `troth.at.connect(...)` finds the transaction by itself, in FastAPI's
thread pool too.
"""

from __future__ import annotations

from typing import Annotated

from troth.client.client import Client
from troth.client.context import current_xid
from troth.integrations.asgi import TrothMiddleware

try:
    from fastapi import Depends, FastAPI
except ImportError as error:
    raise ImportError("FastAPI is not installed: pip install 'troth[fastapi]'") from error

__all__ = ["CallerXid", "TrothMiddleware", "add_troth"]


async def _caller_xid() -> str | None:
    return current_xid()


CallerXid = Annotated[str | None, Depends(_caller_xid)]
"""A handler's parameter of this type is the xid of the caller's transaction, or None."""


def add_troth(app: FastAPI, *, vote_on_5xx: bool = True, client: Client | None = None) -> None:
    """Let every request of `app` join its caller's transaction; the arguments are those of `asgi.TrothMiddleware`.

    Call it after adding other middleware: the one that is added last is the outermost, and sees their failures too.
    """
    app.add_middleware(TrothMiddleware, vote_on_5xx=vote_on_5xx, client=client)
