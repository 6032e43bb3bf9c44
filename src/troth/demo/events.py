"""What the demo's processes tell their parent: one JSON object a line on standard output."""

from __future__ import annotations

import sys
import time

import msgspec

Value = str | int | float | bool | None
Row = dict[str, Value]


class Event(msgspec.Struct, frozen=True, tag_field="event", kw_only=True):
    """Something that happened; `at_ns` (Unix time) puts what several processes say in order."""

    at_ns: int = msgspec.field(default_factory=time.time_ns)


class Ready(Event, frozen=True, tag="ready"):
    """The process serves. `admin` is the coordinator's HTTP door."""

    address: str
    admin: str = ""


class Begun(Event, frozen=True, tag="begun"):
    """The business process began a global transaction."""

    xid: str
    timeout_s: float


class Change(msgspec.Struct, frozen=True):
    """One statement's rows before and after."""

    kind: str
    table: str
    before: list[Row]
    after: list[Row]


class Committed(Event, frozen=True, tag="committed"):
    """A service registered a branch and committed locally, with what it takes to undo that."""

    xid: str
    branch_id: str
    changes: list[Change]


class Branch(msgspec.Struct, frozen=True):
    """A branch as the coordinator's admin API shows it."""

    branch_id: str
    branch_type: str
    resource_id: str
    status: str
    lock_keys: str | None = None


class Listed(Event, frozen=True, tag="listed"):
    """The branches that the coordinator knew when the purchase was about to end."""

    branches: list[Branch]


class Ending(Event, frozen=True, tag="ending"):
    """The business process is about to end the transaction: what it asks for, and why."""

    asks: str
    why: str


class Heard(Event, frozen=True, tag="heard"):
    """What the end of the transaction looked like to the business process."""

    text: str


Anything = Ready | Begun | Committed | Listed | Ending | Heard


def tell(event: Anything) -> None:
    """Say `event` to the parent process, at once."""
    sys.stdout.write(msgspec.json.encode(event).decode("utf-8") + "\n")
    sys.stdout.flush()
