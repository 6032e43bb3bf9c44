"""Two resource ids of one database are told to the operator: their row locks do not exclude each other."""

from __future__ import annotations

import pytest

from fixtures_coordinator import CoordinatorProcess, WireClient, until
from troth.server.same_database import SameDatabase, database_of

SAME = (
    ("jdbc:mysql://localhost:3306/shop", "jdbc:mysql://127.0.0.1:3306/shop"),
    ("jdbc:mysql://db:3306/shop", "jdbc:mariadb://db:3306/shop"),
    ("jdbc:mysql://db/shop", "jdbc:mysql://DB:3306/shop?useSSL=false"),
    ("jdbc:postgresql://[::1]:5432/shop", "jdbc:postgresql://localhost/shop"),
    ("jdbc:postgresql://db/shop?currentSchema=a&ssl=false", "jdbc:postgresql://db:5432/shop?currentSchema=a"),
)
DIFFERENT = (
    ("jdbc:mysql://db:3306/shop", "jdbc:mysql://db:3307/shop"),
    ("jdbc:mysql://db/shop", "jdbc:mysql://db/Shop"),
    ("jdbc:mysql://db/shop", "jdbc:postgresql://db/shop"),
    ("jdbc:mysql://db/shop", "jdbc:mysql://other/shop"),
    ("jdbc:postgresql://db/shop?currentSchema=a", "jdbc:postgresql://db/shop?currentSchema=b"),
    ("jdbc:postgresql://db/shop?currentSchema=a", "jdbc:postgresql://db/shop"),
)
STRANGE = (
    "",
    "tcc-stock",
    "jdbc:sqlite:/a.db",
    "jdbc:mysql://a:3306,b:3306/shop",
    "jdbc:mysql://",
    "jdbc:mysql://x" * 99,
)


@pytest.mark.parametrize(("one", "other"), SAME)
def test_one_database_is_told_once_with_both_names(one: str, other: str) -> None:
    known = SameDatabase()
    assert known.note(one) is None
    assert known.note(other) == one
    assert known.note(other) is None
    assert known.note(one) is None


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_differs_is_not_taken_for_the_same(one: str, other: str) -> None:
    known = SameDatabase()
    assert (known.note(one), known.note(other)) == (None, None)


@pytest.mark.parametrize("resource", STRANGE)
def test_what_is_not_understood_is_left_alone(resource: str) -> None:
    assert database_of(resource) is None
    assert SameDatabase().note(resource) is None


def test_it_forgets_the_oldest() -> None:
    known = SameDatabase(most=2)
    for number in range(3):
        known.note(f"jdbc:mysql://db{number}/shop")
    assert known.note("jdbc:mariadb://db0/shop") is None
    assert known.note("jdbc:mariadb://db2/shop") == "jdbc:mysql://db2/shop"


@pytest.mark.engines
def test_a_coordinator_warns(coordinator: CoordinatorProcess) -> None:
    with WireClient(coordinator.port) as client:
        client.register_rm("jdbc:mysql://localhost:3306/warned,jdbc:mariadb://127.0.0.1/warned")
    until(lambda: "two resource ids name one database" in coordinator.log())
    (line,) = [line for line in coordinator.log().splitlines() if "two resource ids" in line]
    assert "jdbc:mysql://localhost:3306/warned" in line
    assert "jdbc:mariadb://127.0.0.1/warned" in line
