"""A database of an RM: rows that are lists to append to, local row locks, undo rows with guards, TCC reservations.

It survives the processes that use it. A local commit is one step: rows, undo row, all or nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

Value = tuple[str, ...]
BranchName = tuple[str, int]


class LocalLockTimeout(Exception):
    """Another local transaction has held a row for too long."""


class GuardFound(Exception):
    """The unique key of the undo table: the branch was rolled back before its local commit."""


class Dirty(Exception):
    """A row is not what the branch left behind: somebody has written through a global lock."""


@dataclass(frozen=True, slots=True)
class Change:
    """One row of one branch, before and after."""

    key: str
    before: Value
    after: Value


@dataclass(frozen=True, slots=True)
class UndoRow:
    """What takes a branch back; without changes it is a guard that keeps a late phase one out."""

    changes: tuple[Change, ...]


class Reservation(Enum):
    """Where a TCC branch stands; SUSPENDED is the fence of a cancel that came before its try."""

    TRIED = "tried"
    CONFIRMED = "confirmed"
    CANCELLED = "cancelled"
    SUSPENDED = "suspended"


@dataclass(slots=True)
class _RowLock:
    owner: object
    waiters: deque[tuple[object, asyncio.Future[None]]] = field(default_factory=deque)


class Database:
    """One resource's rows. `committed` hears of each local commit of a branch before it happens."""

    def __init__(self, name: str, keys: tuple[str, ...], committed: Callable[[Database, BranchName, UndoRow], None]):
        self.name = name
        self.rows: dict[str, Value] = dict.fromkeys(keys, ())
        self.undo: dict[BranchName, UndoRow] = {}
        self.reservations: dict[BranchName, Reservation] = {}
        self._committed = committed
        self._locks: dict[str, _RowLock] = {}

    # ---- local row locks ----

    async def lock(self, owner: object, keys: tuple[str, ...], timeout_s: float) -> None:
        """Lock rows for a local transaction, in their order. Raises LocalLockTimeout; `release` is the caller's."""
        try:
            async with asyncio.timeout(timeout_s):
                for key in sorted(keys):
                    await self._lock_row(owner, key)
        except TimeoutError as error:
            raise LocalLockTimeout(f"{self.name}: rows {keys} are locked") from error

    async def _lock_row(self, owner: object, key: str) -> None:
        lock = self._locks.get(key)
        if lock is None:
            self._locks[key] = _RowLock(owner)
        elif lock.owner is not owner:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            lock.waiters.append((owner, turn))
            await turn

    def release(self, owner: object) -> None:
        """The local transaction has ended."""
        for key, lock in list(self._locks.items()):
            if lock.owner is not owner:
                continue
            while lock.waiters:
                lock.owner, turn = lock.waiters.popleft()
                if not turn.done():
                    turn.set_result(None)
                    break
            else:
                del self._locks[key]

    @property
    def rows_locked(self) -> int:
        """By local transactions."""
        return len(self._locks)

    # ---- AT ----

    def commit_branch(self, branch: BranchName, undo: UndoRow) -> None:
        """COMMIT of phase one. Raises GuardFound, with nothing changed."""
        if branch in self.undo:
            raise GuardFound(f"{self.name}: {branch} was rolled back already")
        self._committed(self, branch, undo)
        self.undo[branch] = undo
        for change in undo.changes:
            self.rows[change.key] = change.after

    def forget_undo(self, branch: BranchName) -> None:
        """Phase two of a commit."""
        self.undo.pop(branch, None)

    async def roll_back(self, branch: BranchName, timeout_s: float) -> None:
        """Phase two of a rollback: undo, or leave a guard. Raises LocalLockTimeout, Dirty."""
        owner = object()
        undo = self.undo.get(branch)
        try:
            if undo is not None:
                await self.lock(owner, tuple(change.key for change in undo.changes), timeout_s)
            self._undo(branch)
        finally:
            self.release(owner)

    def _undo(self, branch: BranchName) -> None:
        undo = self.undo.get(branch)
        if undo is None:
            self.undo[branch] = UndoRow(())
            return
        for change in undo.changes:
            if self.rows[change.key] != change.after:
                raise Dirty(f"{self.name}.{change.key} is {self.rows[change.key]}, {branch} left {change.after}")
        for change in undo.changes:
            self.rows[change.key] = change.before
        if undo.changes:
            del self.undo[branch]

    # ---- TCC ----

    def reserve(self, branch: BranchName) -> None:
        """Try. Raises GuardFound when the cancel came first."""
        if branch in self.reservations:
            raise GuardFound(f"{self.name}: {branch} is {self.reservations[branch].value} already")
        self.reservations[branch] = Reservation.TRIED

    def settle(self, branch: BranchName, *, confirm: bool) -> Reservation:
        """Confirm or cancel; done already is done. Returns how the branch stands now, which may be the opposite."""
        now = self.reservations.get(branch)
        if now is None and not confirm:
            self.reservations[branch] = Reservation.SUSPENDED
        elif now is Reservation.TRIED:
            self.reservations[branch] = Reservation.CONFIRMED if confirm else Reservation.CANCELLED
        return self.reservations.get(branch, Reservation.CONFIRMED)
