"""What every checker is: it watches what happens, counts what it has looked at, and complains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from troth.core.decision import Decision
from troth.core.effects import Call, Write
from troth.core.events import Event
from troth.testing.database import BranchName, Database, UndoRow, Value
from troth.wire.seata.messages import BranchEndRequest, Message

if TYPE_CHECKING:
    from troth.testing.coordinator import Coordinator
    from troth.testing.world import World


class Checker:
    """Hears of everything; overrides what it cares for. `looked` counts what it has judged."""

    name = ""

    def __init__(self, world: World) -> None:
        self.world = world
        self.looked = 0

    def complain(self, text: str) -> None:
        """What must always hold does not."""
        self.world.complain(self.name, text)

    def check(self, holds: bool, text: str) -> None:
        """One look."""
        self.looked += 1
        if not holds:
            self.complain(text)

    def decides(self, event: Event, decision: Decision, now_ms: int) -> None:
        """The core has taken a turn, by its own clock at `now_ms`."""

    def writes(self, write: Write) -> None:
        """`write` is durable; the ledger does not know of it yet."""

    def asks(self, request: Message) -> object:
        """A client asks; what this returns comes back with the answer."""
        return None

    def hears(self, request: Message, answer: Message, note: object) -> None:
        """A client hears `answer`."""

    def is_called(self, request: BranchEndRequest) -> None:
        """An RM is asked for phase two."""

    def step_is_called(self, call: Call) -> None:
        """A service that the coordinator calls itself is about to be called."""

    def commits_locally(self, database: Database, branch: BranchName, undo: UndoRow) -> None:
        """A local transaction is about to commit phase one of `branch`."""

    def reads(self, xid: str, database: Database, key: str, value: Value) -> None:
        """A row was read that no other global transaction holds."""

    def concludes(self, xid: str, committed: bool) -> None:
        """A program believes this outcome."""

    def starts(self, coordinator: Coordinator) -> None:
        """A coordinator has loaded what is durable."""

    def batch_is_durable(self, coordinator: Coordinator) -> None:
        """All writes of a batch are in the ledger."""

    async def finish(self) -> None:
        """The storm is over and everything has had its time."""
