"""What must hold whatever happens, one file each."""

from __future__ import annotations

from troth.testing.checkers.atomicity import Atomicity
from troth.testing.checkers.checker import Checker
from troth.testing.checkers.durability import Durability
from troth.testing.checkers.isolation import Isolation
from troth.testing.checkers.liveness import Liveness
from troth.testing.checkers.lock_exclusion import LockExclusion
from troth.testing.checkers.memory import BoundedMemory
from troth.testing.checkers.order import RollbackOrder
from troth.testing.checkers.orphan_locks import NoOrphanLock
from troth.testing.checkers.steps import Steps
from troth.testing.checkers.truth import Truth

CHECKERS: tuple[type[Checker], ...] = (
    Atomicity,
    Durability,
    LockExclusion,
    NoOrphanLock,
    RollbackOrder,
    Isolation,
    Truth,
    Steps,
    Liveness,
    BoundedMemory,
)
