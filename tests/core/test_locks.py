"""A row is held by its live branches, however many there are, and free when the last has gone."""

from __future__ import annotations

from itertools import permutations

import pytest

from troth.core.locks import LockTable
from troth.core.model import Branch, BranchType, RowKey

ROW, OTHER = RowKey("r", "stock", "1"), RowKey("r", "stock", "2")


def branch(branch_id: int, *keys: RowKey) -> Branch:
    return Branch(branch_id, branch_id, BranchType.AT, "r", "", keys, None, True, "app:127.0.0.1:1")


@pytest.mark.parametrize("order", list(permutations([0, 1, 2])))
def test_the_last_branch_frees_the_row_whatever_the_order(order: tuple[int, ...]) -> None:
    locks = LockTable()
    for branch_id in (0, 1, 2, 1):
        locks.take("x", branch_id, (ROW,))
    freed = [locks.free(branch(branch_id, ROW)) for branch_id in order]
    assert freed == [[], [], [ROW]]
    assert locks.holder(ROW) is None


def test_a_branch_that_left_may_come_again_and_a_stranger_frees_nothing() -> None:
    locks = LockTable()
    locks.take("x", 1, (ROW, OTHER))
    assert locks.free(branch(2, ROW, OTHER)) == []
    locks.take("x", 2, (ROW,))
    assert locks.free(branch(1, ROW, OTHER)) == [OTHER]
    assert locks.free(branch(1, ROW, OTHER)) == []
    locks.take("x", 1, (ROW,))
    assert [locks.free(branch(each, ROW)) for each in (2, 1)] == [[], [ROW]]
    assert len(locks) == 0
