"""A local transaction as branches: what it did exclusively is one, what it only added to hot rows another (at.md §6).

A row that it also changed in another way belongs wholly to the exclusive one: there, the images say all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from troth.client.modes.at_write import Change
from troth.client.sql.additive import Delta, merged, undo_log
from troth.client.sql.lockkeys import lock_text
from troth.client.sql.undo import SqlUndoLog
from troth.client.sql.undo_codec import DELTA, JACKSON


@dataclass(frozen=True, slots=True)
class Share:
    """What becomes one branch. With `deltas` it locks its rows in mode `add`, and is undone by them, not by images."""

    images: tuple[SqlUndoLog, ...]
    locks: str
    deltas: tuple[Delta, ...] = ()

    @property
    def logs(self) -> tuple[SqlUndoLog, ...]:
        """What its undo log holds."""
        return tuple(map(undo_log, self.deltas)) if self.deltas else self.images

    @property
    def serializer(self) -> str:
        """Who reads its undo log."""
        return DELTA if self.deltas else JACKSON

    def alone(self) -> Self:
        """The same for a coordinator that has no mode `add`: exclusive, and an undo log that Java can read."""
        return replace(self, deltas=())


def shares(changes: Sequence[Change]) -> list[Share]:
    """The branches to register, in that order."""
    alone = {lock for change in changes if change.delta is None for lock in change.locks}
    exclusive: list[Change] = []
    added: list[Change] = []
    deltas: list[Delta] = []
    for change in changes:
        if change.delta is None or change.delta.lock in alone:
            exclusive.append(change)
        else:
            added.append(change)
            deltas.append(change.delta)
    parts = [(exclusive, ()), (added, merged(deltas))]
    return [_share(part, sums) for part, sums in parts if part]


def _share(changes: Sequence[Change], deltas: tuple[Delta, ...]) -> Share:
    locks = lock_text(lock for change in changes for lock in change.locks)
    return Share(tuple(change.undo for change in changes), locks, deltas)
