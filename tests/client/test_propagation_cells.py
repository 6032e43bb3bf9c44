"""Each cell of the propagation table, with and without a transaction around, entered by `with` and `async with`.

What is checked of each: whose xid is bound inside, who begins, who ends and how, and that what was there is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import troth
from troth.client.client import Client
from troth.client.propagation import Propagation
from troth.client.transaction import Transaction, global_transaction, transaction
from troth.wire.seata.messages import GlobalBeginRequest, GlobalCommitRequest, GlobalRollbackRequest

OUTER = "127.0.0.1:8091:4711"
OWN = "127.0.0.1:8091:1"
"""What the coordinator calls the first transaction that is begun."""


@dataclass(frozen=True)
class Cell:
    """`bound`: the xid inside; None: outside of any. `refused`: the body does not run."""

    propagation: Propagation
    around: str | None
    bound: str | None = None
    refused: bool = False

    @property
    def owns(self) -> bool:
        return self.bound == OWN

    @property
    def name(self) -> str:
        return f"{self.propagation.name}-{'inside' if self.around else 'outside'}"


CELLS = (
    Cell(Propagation.REQUIRED, None, OWN),
    Cell(Propagation.REQUIRED, OUTER, OUTER),
    Cell(Propagation.REQUIRES_NEW, None, OWN),
    Cell(Propagation.REQUIRES_NEW, OUTER, OWN),
    Cell(Propagation.NOT_SUPPORTED, None, None),
    Cell(Propagation.NOT_SUPPORTED, OUTER, None),
    Cell(Propagation.SUPPORTS, None, None),
    Cell(Propagation.SUPPORTS, OUTER, OUTER),
    Cell(Propagation.NEVER, None, None),
    Cell(Propagation.NEVER, OUTER, refused=True),
    Cell(Propagation.MANDATORY, None, refused=True),
    Cell(Propagation.MANDATORY, OUTER, OUTER),
)

Body = Callable[[], None]


def by_with(cell: Cell, client: Client, body: Body) -> None:
    with transaction(propagation=cell.propagation, client=client):
        body()


def by_async_with(cell: Cell, client: Client, body: Body) -> None:
    async def main() -> None:
        with troth.join(cell.around):
            async with transaction(propagation=cell.propagation, client=client):
                body()
            assert troth.current_xid() == cell.around

    asyncio.run(main())


def by_decorator(cell: Cell, client: Client, body: Body) -> None:
    global_transaction(propagation=cell.propagation, client=client)(body)()


def by_async_decorator(cell: Cell, client: Client, body: Body) -> None:
    @global_transaction(propagation=cell.propagation, client=client)
    async def work() -> None:
        body()

    async def main() -> None:
        with troth.join(cell.around):
            await work()
            assert troth.current_xid() == cell.around

    asyncio.run(main())


@pytest.fixture(params=[by_with, by_async_with, by_decorator, by_async_decorator])
def enter(request: pytest.FixtureRequest) -> Callable[[Cell, Client, Body], None]:
    return request.param


def test_there_is_a_test_for_each_cell() -> None:
    assert {(cell.propagation, cell.around is None) for cell in CELLS} == {
        (propagation, outside) for propagation in Propagation for outside in (True, False)
    }


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
@pytest.mark.parametrize("fails", [False, True], ids=["ends", "fails"])
def test_cell(cell: Cell, fails: bool, enter: Any, coordinator: Any, client: Client) -> None:
    seen: list[str | None] = []

    def body() -> None:
        seen.append(troth.current_xid())
        if fails:
            raise KeyError("stock")

    with troth.join(cell.around):
        if cell.refused:
            with pytest.raises(troth.PropagationRefused, match=cell.propagation.name):
                enter(cell, client, body)
        elif fails:
            with pytest.raises(KeyError):
                enter(cell, client, body)
        else:
            enter(cell, client, body)
        assert troth.current_xid() == cell.around
    assert troth.current_xid() is None
    assert seen == ([] if cell.refused else [cell.bound])
    assert len(coordinator.of(GlobalBeginRequest)) == cell.owns
    committed, rolled_back = coordinator.of(GlobalCommitRequest), coordinator.of(GlobalRollbackRequest)
    assert [end.xid for end in committed] == [OWN] * (cell.owns and not fails)
    assert [end.xid for end in rolled_back] == [OWN] * (cell.owns and fails)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_who_owns_what(cell: Cell, client: Client) -> None:
    if cell.refused:
        return
    with troth.join(cell.around), transaction(propagation=cell.propagation, client=client) as tx:
        assert tx.owner is cell.owns
        if cell.bound is None:
            with pytest.raises(troth.NoTransaction):
                assert tx.xid
        else:
            assert tx.xid == cell.bound


def test_three_deep(coordinator: Any, client: Client) -> None:
    """A new one inside of one that is set aside inside of one: each ends its own, in the order they are left."""

    def scope(propagation: Propagation) -> Transaction:
        return transaction(propagation=propagation, client=client)

    with scope(Propagation.REQUIRED) as first:
        with scope(Propagation.NOT_SUPPORTED):
            with scope(Propagation.REQUIRED) as second, scope(Propagation.MANDATORY) as joined:
                assert joined.xid == second.xid != first.xid
            assert troth.current_xid() is None
        assert troth.current_xid() == first.xid
    assert [end.xid for end in coordinator.of(GlobalCommitRequest)] == [second.xid, first.xid]
