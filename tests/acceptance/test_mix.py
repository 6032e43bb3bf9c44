"""AT, TCC and XA branches in one global transaction, on SQLite, PostgreSQL and MariaDB: all or nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from mix_shop import AFTERWARDS, UNTOUCHED, Purchase, Shop, a_trip, play

import troth
from fixtures_coordinator import until

pytestmark = pytest.mark.engines


@pytest.fixture(scope="module")
def _client() -> Iterator[None]:
    with troth.embedded(retry__min="20ms", retry__max="100ms"):
        yield


@pytest.fixture
def shop(tmp_path: Path, new_postgres_database: Callable[[], str], new_mariadb_database: Callable[[], str]) -> Shop:
    return Shop(f"sqlite:///{tmp_path / 'shop.db'}", new_postgres_database(), new_mariadb_database()).make()


@pytest.fixture
def purchase(_client: None, shop: Shop) -> Iterator[Purchase]:
    made = Purchase(shop)
    yield made
    made.close()


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
