"""AT and compensations in one global transaction: both kept, or both undone, the newest first."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import troth
from fixtures_coordinator import until

NewStep = Callable[..., Any]


@pytest.mark.parametrize("fails", [False, True], ids=["commit", "rollback"])
def test_at_and_undoable_calls(
    fails: bool, saga_client: troth.Client, new_step: NewStep, diary: list[Any], tmp_path: Path
) -> None:
    file = tmp_path / "stock.db"
    with closing(sqlite3.connect(file)) as made:
        made.execute("CREATE TABLE stock (id INTEGER PRIMARY KEY, count INTEGER)")
        made.execute("INSERT INTO stock VALUES (1, 10)")
        made.commit()
    troth.at.init(f"sqlite:///{file}")
    mail, late = new_step("mail"), new_step("late")

    @troth.saga(name="part")
    def part() -> None:
        late()

    def body() -> None:
        with troth.transaction(name="mixed"):
            mail()
            with closing(troth.at.connect(f"sqlite:///{file}")) as stock:
                stock.execute("UPDATE stock SET count = count - 1 WHERE id = 1")
                stock.commit()
            part()
            if fails:
                raise ZeroDivisionError

    def count() -> int:
        with closing(sqlite3.connect(file)) as there:
            (number,) = there.execute("SELECT count FROM stock").fetchone()
            return int(number)

    if not fails:
        body()
        assert (diary, count()) == (["do mail", "do late"], 9)
        return
    with pytest.raises(ZeroDivisionError):
        body()
    until(lambda: len(diary) == 4 and count() == 10, what=f"{diary}, {count()}")
    assert diary == ["do mail", "do late", "undo late", "undo mail"]
