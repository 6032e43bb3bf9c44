"""`rollback_for` and `no_rollback_for`: the most specific rule wins."""

from __future__ import annotations

from typing import Any

import pytest

from troth.client.client import Client
from troth.client.rollback_rules import Kinds, RollbackRules
from troth.client.transaction import global_transaction, transaction
from troth.wire.seata.messages import GlobalCommitRequest, GlobalRollbackRequest


class ShopError(Exception):
    pass


class SoldOut(ShopError, LookupError):
    pass


class SoldOutForEver(SoldOut):
    pass


@pytest.mark.parametrize(
    ("rollback_for", "no_rollback_for", "error", "rolls_back"),
    [
        ((), (), ShopError, True),
        ((), (), KeyboardInterrupt, True),
        ((), (ShopError,), ShopError, False),
        ((), (ShopError,), SoldOut, False),
        ((), (ShopError,), KeyError, True),
        ((KeyError,), (), ShopError, True),  # what no rule names
        ((SoldOut,), (ShopError,), SoldOut, True),
        ((SoldOut,), (ShopError,), SoldOutForEver, True),
        ((SoldOut,), (ShopError,), ShopError, False),
        ((ShopError,), (SoldOut,), SoldOut, False),
        ((ShopError,), (SoldOut,), ShopError, True),
        ((SoldOut,), (SoldOut,), SoldOut, True),  # both: as Seata has it
        ((LookupError,), (ShopError,), SoldOut, False),  # the first of two bases is the nearer one
        ((ShopError,), (Exception,), SoldOut, True),
        ((Exception,), (ShopError,), SoldOut, False),
    ],
)
def test_rules(rollback_for: Kinds, no_rollback_for: Kinds, error: type[BaseException], rolls_back: bool) -> None:
    assert RollbackRules(rollback_for, no_rollback_for).rolls_back(error()) is rolls_back


def test_a_scope_follows_them(coordinator: Any, client: Client) -> None:
    for error, commits, rollbacks in ((ShopError, 1, 0), (SoldOut, 1, 1)):
        with (
            pytest.raises(error),
            transaction(client=client, no_rollback_for=(ShopError,), rollback_for=(SoldOut,)),
        ):
            raise error
        assert len(coordinator.of(GlobalCommitRequest)) == commits
        assert len(coordinator.of(GlobalRollbackRequest)) == rollbacks


async def test_so_does_a_decorated_coroutine(coordinator: Any, client: Client) -> None:
    @global_transaction(client=client, no_rollback_for=(ShopError,), rollback_for=(SoldOut,))
    async def purchase(error: type[Exception]) -> None:
        raise error

    for error in (ShopError, SoldOut):
        with pytest.raises(error):
            await purchase(error)
    assert len(coordinator.of(GlobalCommitRequest)) == len(coordinator.of(GlobalRollbackRequest)) == 1


def test_the_rules_of_who_joins_do_not_count(coordinator: Any, client: Client) -> None:
    with (
        pytest.raises(ShopError),
        transaction(client=client),
        transaction(client=client, no_rollback_for=(ShopError,)),
    ):
        raise ShopError
    assert len(coordinator.of(GlobalRollbackRequest)) == 1


@pytest.mark.parametrize("wrong", [KeyError, [KeyError], ("KeyError",), None])
def test_what_is_no_tuple_of_classes_is_told_where_it_is_written(wrong: Any) -> None:
    with pytest.raises(TypeError, match="tuples of exception classes"):
        global_transaction(no_rollback_for=wrong)
    with pytest.raises(TypeError, match="tuples of exception classes"):
        transaction(rollback_for=wrong)
