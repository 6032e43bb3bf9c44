"""AT, TCC and XA branches in one global transaction, on SQLite, PostgreSQL and MariaDB: all or nothing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from mix_shop import (
    AFTERWARDS,
    ASYNC_PARTS,
    UNTOUCHED,
    NotWanted,
    Purchase,
    Shop,
    a_trip,
    async_seats,
    async_work,
    play,
)

import troth
from fixtures_coordinator import until

pytestmark = pytest.mark.engines


@pytest.fixture(scope="module")
def _client() -> Iterator[None]:
    with troth.embedded(retry__min="20ms", retry__max="100ms"):
        yield


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory,
    new_postgres_database: Callable[[], str],
    new_mariadb_database: Callable[[], str],
) -> Shop:
    file = tmp_path_factory.mktemp("mix") / "shop.db"
    return Shop(f"sqlite:///{file}", new_postgres_database(), new_mariadb_database()).make()


@pytest.fixture(scope="module")
def purchase(_client: None, made: Shop) -> Iterator[Purchase]:
    made_once = Purchase(made)
    yield made_once
    made_once.close()


@pytest.fixture
def shop(made: Shop) -> Shop:
    """As it was at the start."""
    made.reset()
    return made


def clean(shop: Shop) -> None:
    until(lambda: not shop.left_behind(), what="nothing is left behind")


def test_commit_and_rollback(shop: Shop, purchase: Purchase) -> None:
    assert play(purchase, wanted=False)["outcome"] == "rolled back"
    until(lambda: shop.rows() == UNTOUCHED, what="all undone")
    clean(shop)
    assert play(purchase, wanted=True)["outcome"] == "committed"
    until(lambda: shop.rows() == AFTERWARDS, what="all done")
    clean(shop)


def test_a_vote_of_any_participant_undoes_all(shop: Shop, purchase: Purchase) -> None:
    """Also of one that has no branch, after all branches have done their part."""
    with pytest.raises(troth.TransactionRolledBack), troth.transaction(name="voted") as tx:  # noqa: PT012
        purchase.work()
        with troth.suspend(), troth.join(tx.xid):
            troth.rollback_only()
    until(lambda: shop.rows() == UNTOUCHED, what="all undone")
    clean(shop)


def test_a_part_that_fails_and_is_swallowed_undoes_all(shop: Shop, purchase: Purchase) -> None:
    """The try raises, its caller goes on and commits: the coordinator knows better."""
    seat: Any = purchase.seat
    with pytest.raises(troth.TransactionRolledBack), troth.transaction(name="swallowed"):  # noqa: PT012
        purchase.work()
        with pytest.raises(Exception, match="no such table"):
            _failing_try(shop, seat)
    until(lambda: shop.rows() == UNTOUCHED, what="all undone")
    clean(shop)


def _failing_try(shop: Shop, seat: Any) -> None:
    shop.look(shop.sqlite, "ALTER TABLE seat RENAME TO moved")
    try:
        seat.try_(7)
    finally:
        shop.look(shop.sqlite, "ALTER TABLE moved RENAME TO seat")


async def test_by_coroutines(shop: Shop, purchase: Purchase) -> None:
    seat = async_seats(shop)

    async def buy(*, wanted: bool) -> None:
        async with troth.transaction(name="async purchase"):
            await async_work(shop, seat)
            if not wanted:
                raise NotWanted

    def is_now(rows: dict[str, int]) -> bool:
        seen = shop.rows()
        return all(seen[part] == rows[part] for part in ASYNC_PARTS)

    with pytest.raises(NotWanted):
        await buy(wanted=False)
    await asyncio.to_thread(until, lambda: is_now(UNTOUCHED), what="all undone")
    await buy(wanted=True)
    await asyncio.to_thread(until, lambda: is_now(AFTERWARDS), what="all done")
    await asyncio.to_thread(clean, shop)


class WorksAtTheEnd(troth.TransactionHook):
    """Does the whole purchase when its transaction is about to be committed, or leaves the last of it open."""

    def __init__(self, purchase: Purchase, *, forgets: bool) -> None:
        self.heard: list[str] = []
        self._purchase = purchase
        self._forgets = forgets

    def before_commit(self, tx: troth.Transaction) -> None:
        self._purchase.work()
        if self._forgets:
            self._purchase.forget_to_commit()

    def before_rollback(self, tx: troth.Transaction) -> None:
        self.heard.append("before rollback")

    def after_completion(self, tx: troth.Transaction, status: Any) -> None:
        self.heard.append(status.name)


def test_what_a_hook_does_before_the_commit_belongs_to_the_transaction(shop: Shop, purchase: Purchase) -> None:
    hook = WorksAtTheEnd(purchase, forgets=True)
    with pytest.raises(troth.TransactionRolledBack, match="not committed"), troth.transaction(hooks=[hook]):
        pass
    assert hook.heard[0] == "before rollback"
    until(lambda: shop.rows() == UNTOUCHED, what="all undone")
    clean(shop)
    hook = WorksAtTheEnd(purchase, forgets=False)
    with troth.transaction(hooks=[hook]):
        pass
    assert hook.heard == ["Committed"]
    until(lambda: shop.rows() == AFTERWARDS, what="all done")
    clean(shop)


# ---- and a saga ----


@pytest.mark.parametrize("pays", [True, False], ids=["commits", "rolls back"])
def test_a_saga_with_branches_of_every_mode(pays: bool, shop: Shop, purchase: Purchase) -> None:
    trip = a_trip(purchase, pays=pays)
    if pays:
        trip()
    else:
        with pytest.raises(troth.StepFailed, match="no money"):
            trip()
    until(lambda: shop.rows() == (AFTERWARDS if pays else UNTOUCHED), what="all done, or all undone")
    clean(shop)
    assert shop.flights() == (["booked"] if pays else ["booked", "given back"])
