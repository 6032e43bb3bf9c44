"""C2: a row that was edited and later edited back is not rolled back behind everybody's back."""

# ruff: noqa: PT012 - what is raised at the end rolls the whole block back

from __future__ import annotations

import pytest

import troth
from troth.client.errors import LockConflict

pytestmark = pytest.mark.engines


class Undo(Exception):
    pass


def test_c02_an_edit_that_is_taken_back_wakes_nothing(shop):
    one = shop.connect(autocommit=True)
    with pytest.raises(Undo) as raised, troth.transaction() as tx:
        one.set(0)
        shop.run("UPDATE account SET balance = 55 WHERE id = 1")  # past AT
        raise Undo
    assert "the rollback was asked for, but" in str(raised.value.__notes__)
    frozen = tx.status()
    shop.run("UPDATE account SET balance = 0 WHERE id = 1")  # what the branch had left: the ABA
    for _ in range(3):  # others of the same resource are undone meanwhile
        with pytest.raises(Undo), troth.transaction():
            one.set(0, account=2)
            raise Undo
    assert (shop.balance(), shop.balance(2)) == (0, 50)
    assert tx.status() is frozen
    with pytest.raises(LockConflict), troth.global_lock():
        one.set(1)
