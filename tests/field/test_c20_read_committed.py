"""C20: under read committed nothing that may still be undone is shown, not even inside a local transaction."""

# ruff: noqa: PT012 - what is raised at the end rolls the whole block back

from __future__ import annotations

import pytest

import troth
from troth.client.context import join
from troth.client.errors import LockConflict

pytestmark = pytest.mark.engines


@pytest.mark.parametrize("scope", [troth.global_lock, troth.transaction])
def test_c20_the_lock_is_checked_before_the_row_is_handed_over(shop, scope):
    writer, reader = shop.connect(autocommit=True), shop.connect()
    tail = "" if shop.engine == "sqlite" else " FOR UPDATE"
    level = {"isolation": "read_committed"} if shop.engine == "sqlite" else {}
    with pytest.raises(ZeroDivisionError), troth.transaction():
        writer.set(0)
        with join(None), scope(**level):
            with pytest.raises(LockConflict):  # at the statement, not at a commit that may never come
                reader.balance(tail=tail)
            reader.rollback()
        1 / 0  # noqa: B018 - rolls the whole back
    with scope(**level):
        assert reader.balance(tail=tail) == 100
        reader.rollback()
