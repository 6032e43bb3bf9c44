"""What a checker must find, shown to it by hand. (test_mutations.py shows that the world brings it about.)"""

from __future__ import annotations

import pytest

from troth.testing.checkers.isolation import cycles
from troth.testing.database import BranchName, Change, Database, Dirty, GuardFound, LocalLockTimeout, UndoRow
from troth.testing.loop import VirtualLoop, run_virtually


def database() -> Database:
    return Database("db", ("1", "2"), lambda database, branch, undo: None)


def append(place: Database, branch: BranchName, token: str) -> None:
    before = place.rows["1"]
    place.commit_branch(branch, UndoRow((Change("1", before, (*before, token)),)))


@pytest.mark.parametrize(
    ("after", "found"),
    [
        ({}, []),
        ({"a": {"b"}, "b": {"c"}}, []),
        ({"a": {"b"}, "b": {"a"}}, [["a", "b"]]),
        ({"a": {"b"}, "b": {"c"}, "c": {"d", "b"}}, [["b", "c"]]),
        ({"a": {"b"}, "b": {"a"}, "x": {"a", "y"}, "y": {"x"}}, [["a", "b"], ["x", "y"]]),
    ],
)
def test_cycles(after: dict[str, set[str]], found: list[list[str]]) -> None:
    assert [sorted(component) for component in cycles(after)] == found


def test_undo_restores_the_row_and_leaves_no_undo_row() -> None:
    async def main(loop: VirtualLoop) -> None:
        place = database()
        append(place, ("x", 1), "a")
        append(place, ("x", 2), "b")
        await place.roll_back(("x", 2), 1.0)
        await place.roll_back(("x", 1), 1.0)
        assert place.rows["1"] == ()
        assert not any(undo.changes for undo in place.undo.values())

    run_virtually(main)


def test_undo_on_a_strangers_value_is_dirty() -> None:
    async def main(loop: VirtualLoop) -> None:
        place = database()
        append(place, ("x", 1), "a")
        append(place, ("y", 2), "b")
        with pytest.raises(Dirty):
            await place.roll_back(("x", 1), 1.0)

    run_virtually(main)


def test_a_guard_keeps_a_late_phase_one_out() -> None:
    async def main(loop: VirtualLoop) -> None:
        place = database()
        await place.roll_back(("x", 1), 1.0)
        with pytest.raises(GuardFound):
            append(place, ("x", 1), "a")
        assert place.rows["1"] == ()

    run_virtually(main)


def test_local_locks_go_to_the_next_in_line() -> None:
    async def main(loop: VirtualLoop) -> None:
        place, first, second = database(), object(), object()
        await place.lock(first, ("1",), 1.0)
        with pytest.raises(LocalLockTimeout):
            await place.lock(second, ("1", "2"), 1.0)
        place.release(second)
        waits = loop.create_task(place.lock(second, ("1",), 1.0))
        loop.call_later(0.5, place.release, first)
        await waits
        place.release(second)
        assert place.rows_locked == 0

    run_virtually(main)
