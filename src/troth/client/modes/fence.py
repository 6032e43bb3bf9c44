"""The fence of TCC on SQL: one row a branch in `tcc_fence_log`, as Seata lays it out, in the database of the action.

It answers three things at once, by its unique key: a confirm or cancel that comes twice is done once; a cancel whose
try never came does nothing (an *empty rollback*); a try that comes after its cancel is refused (a *suspended* branch).

Every flow inserts first. To look for a missing key and lock what is not there (SELECT … FOR UPDATE) takes gap locks on
InnoDB, and two cancels side by side would then be a deadlock. Times are the database's, in UTC: rows are compared by
whoever comes, in whatever zone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum, auto
from types import MappingProxyType
from typing import Final, Protocol

from troth.client.errors import BranchFailed, TrothError
from troth.client.flow import Flow, query
from troth.client.modes.missing_table import explained

TABLE: Final = "tcc_fence_log"
LONGEST_XID: Final = 128
LONGEST_ACTION: Final = 64


class FenceMode(StrEnum):
    """How an action is fenced."""

    LOCAL_TX = "local-tx"
    """The row commits together with the try, in one local transaction: for tries that are SQL only."""
    INTENT_FIRST = "intent-first"
    """The row is committed before the try, with a deadline: for tries that do more. One that threw is cancelled too."""
    OFF = "off"
    """None: the action itself is idempotent, and knows an empty rollback and a late try."""


class FenceStatus(IntEnum):
    """`tcc_fence_log.status`. The first four are Seata's."""

    TRIED = 1
    COMMITTED = 2
    ROLLBACKED = 3
    SUSPENDED = 4
    TRYING = 5
    """Ours (intent-first): the try may be running; `gmt_modified` is its deadline."""


class Found(Enum):
    """What the fence says to a confirm or cancel."""

    RUN = auto()
    """It is the first: run it, then commit what the fence has written."""
    DONE = auto()
    """It has been done, or there is nothing to do."""


class LateTry(BranchFailed):
    """The branch was cancelled before its try came: nothing was tried."""


class NotNow(TrothError):
    """Phase two cannot be done (yet): the coordinator is answered "later", with this text."""


@dataclass(frozen=True, slots=True)
class Branch:
    """Whose row it is."""

    xid: str
    branch_id: int
    action: str

    def __str__(self) -> str:
        return f"branch {self.branch_id} of {self.xid} ({self.action})"


class Fence(Protocol):
    """What every fence does. Each flow works inside a transaction that the caller begins and commits."""

    def tried(self, branch: Branch) -> Flow[None]:
        """Local-tx: the try is done with this transaction. Raises LateTry."""
        ...

    def trying(self, branch: Branch, deadline_ms: int) -> Flow[None]:
        """Intent-first: the try begins, and will not begin later than `deadline_ms` from now. Raises LateTry."""
        ...

    def ended(self, branch: Branch) -> Flow[None]:
        """Intent-first: the try has ended, well or not. Raises LateTry if a cancel has not waited for it."""
        ...

    def never_began(self, branch: Branch) -> Flow[None]:
        """Intent-first: there is nothing to cancel. Raises LateTry if a cancel has not waited."""
        ...

    def confirm(self, branch: Branch) -> Flow[Found]:
        """Raises NotNow: there was no try, it still runs, or the branch is cancelled."""
        ...

    def cancel(self, branch: Branch) -> Flow[Found]:
        """Raises NotNow: the try still runs, or the branch is confirmed."""
        ...

    def clean_up(self, age_s: int) -> Flow[int]:
        """Delete the rows of ended branches older than `age_s`; how many."""
        ...


@dataclass(frozen=True, slots=True)
class FenceDialect:
    """How one database spells it. `after` has a place for milliseconds."""

    name: str
    now: str
    after: str
    insert: str
    insert_locking: str
    """An insert that leaves a row that is there, and then holds it locked."""
    tail: str
    tail_locking: str
    create: tuple[str, ...]


_COLUMNS = "(xid, branch_id, action_name, status, gmt_create, gmt_modified)"
_INSERT = f"INSERT INTO {TABLE} {_COLUMNS}"
_NOTHING = " ON CONFLICT (xid, branch_id) DO NOTHING"
_SQLITE_NOW = "strftime('%Y-%m-%d %H:%M:%f', 'now')"
_POSTGRES_NOW = "(clock_timestamp() AT TIME ZONE 'UTC')"


def _create(small: str, moment: str, *keys: str) -> str:
    columns = (
        "xid VARCHAR(128) NOT NULL",
        "branch_id BIGINT NOT NULL",
        "action_name VARCHAR(64) NOT NULL",
        f"status {small} NOT NULL",
        f"gmt_create {moment} NOT NULL",
        f"gmt_modified {moment} NOT NULL",
        "PRIMARY KEY (xid, branch_id)",
        *keys,
    )
    return f"CREATE TABLE IF NOT EXISTS {TABLE} ({', '.join(columns)})"


_INDEXES = tuple(
    f"CREATE INDEX IF NOT EXISTS idx_fence_{name} ON {TABLE} ({column})"
    for name, column in (("gmt_modified", "gmt_modified"), ("status", "status"))
)

DIALECTS: Final = MappingProxyType(
    {
        "sqlite": FenceDialect(
            "sqlite",
            _SQLITE_NOW,
            "strftime('%Y-%m-%d %H:%M:%f', 'now', '{ms:+.3f} seconds')",
            _INSERT,
            _INSERT,
            _NOTHING,
            _NOTHING,
            (_create("SMALLINT", "TIMESTAMP"), *_INDEXES),
        ),
        "postgresql": FenceDialect(
            "postgresql",
            _POSTGRES_NOW,
            _POSTGRES_NOW + " + interval '{ms:.3f} seconds'",
            _INSERT,
            _INSERT,
            _NOTHING,
            _NOTHING,
            (_create("SMALLINT", "TIMESTAMP(3)"), *_INDEXES),
        ),
        # IGNORE says reliably by its count whether the row is new, but holds one that is there by a shared lock only:
        # two cancels that go on to UPDATE it would be a deadlock.
        "mysql": FenceDialect(
            "mysql",
            "UTC_TIMESTAMP(3)",
            "UTC_TIMESTAMP(3) + INTERVAL {ms:.3f} SECOND",
            _INSERT.replace("INSERT INTO", "INSERT IGNORE INTO"),
            _INSERT,
            "",
            " ON DUPLICATE KEY UPDATE xid = xid",
            (_create("TINYINT", "DATETIME(3)", "KEY idx_gmt_modified (gmt_modified)", "KEY idx_status (status)"),),
        ),
    }
)
_MYSQL_ENGINE = (
    f"SELECT engine FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = '{TABLE}'"
)
_KEY = "WHERE xid = ? AND branch_id = ?"
_ENDED = f"({FenceStatus.COMMITTED:d}, {FenceStatus.ROLLBACKED:d}, {FenceStatus.SUSPENDED:d})"


class SqlFence:
    """`Fence` on a table of one database."""

    def __init__(self, dialect: FenceDialect) -> None:
        self._dialect = dialect

    def tried(self, branch: Branch) -> Flow[None]:
        """See `Fence.tried`."""
        if not (yield from self._insert(branch, FenceStatus.TRIED, self._dialect.now)):
            raise LateTry(f"{branch} was cancelled before its try came")

    def trying(self, branch: Branch, deadline_ms: int) -> Flow[None]:
        """See `Fence.trying`."""
        if not (yield from self._insert(branch, FenceStatus.TRYING, self._after_ms(deadline_ms))):
            raise LateTry(f"{branch} was cancelled before its try came")

    def ended(self, branch: Branch) -> Flow[None]:
        """See `Fence.ended`."""
        if not (yield from self._move(branch, FenceStatus.TRYING, FenceStatus.TRIED)):
            raise LateTry(f"{branch} was cancelled at the deadline of its try, which ended later")

    def never_began(self, branch: Branch) -> Flow[None]:
        """See `Fence.never_began`."""
        if not (yield from self._move(branch, FenceStatus.TRYING, FenceStatus.SUSPENDED)):
            raise LateTry(f"{branch} was cancelled at the deadline of its try, which had not begun")

    def confirm(self, branch: Branch) -> Flow[Found]:
        """See `Fence.confirm`."""
        if (yield from self._move(branch, FenceStatus.TRIED, FenceStatus.COMMITTED)):
            return Found.RUN
        return found_at_confirm(branch, (yield from self._status(branch)))

    def cancel(self, branch: Branch) -> Flow[Found]:
        """See `Fence.cancel`."""
        yield from self._insert(branch, FenceStatus.SUSPENDED, self._dialect.now, locking=True)
        if (yield from self._move(branch, FenceStatus.TRIED, FenceStatus.ROLLBACKED)):
            return Found.RUN
        overdue = f" AND gmt_modified <= {self._dialect.now}"
        if (yield from self._move(branch, FenceStatus.TRYING, FenceStatus.ROLLBACKED, overdue)):
            return Found.RUN
        return found_at_cancel(branch, (yield from self._status(branch)))

    def clean_up(self, age_s: int) -> Flow[int]:
        """See `Fence.clean_up`. Rows whose branch has not ended stay, however old: they are a question."""
        before = self._after_ms(-age_s * 1000)
        done = yield from query(f"DELETE FROM {TABLE} WHERE status IN {_ENDED} AND gmt_modified < {before}")
        return done.rowcount

    def create(self) -> Flow[None]:
        """Make the table and its indexes, where they are not there."""
        for sql in self._dialect.create:
            yield from query(sql)

    def check(self) -> Flow[list[str]]:
        """What is wrong with the table, in sentences. It leaves nothing behind, if the caller rolls back."""
        try:
            yield from query(f"SELECT {_COLUMNS[1:-1]} FROM {TABLE} WHERE status = 0")
        except Exception as error:  # noqa: BLE001 - every driver has errors of its own; the database's text says it
            return [f"{TABLE} cannot be read: {error}"]
        if self._dialect.name == "mysql":
            engine = yield from query(_MYSQL_ENGINE)
            if [str(row[0]).lower() for row in engine.rows] != ["innodb"]:
                return [f"{TABLE} is not an InnoDB table: a try that fails would leave its row"]
        probe = Branch("troth:check", -1, "check")
        yield from self._insert(probe, FenceStatus.TRIED, self._dialect.now)
        if (yield from self._insert(probe, FenceStatus.TRIED, self._dialect.now)):
            return [f"{TABLE} has no PRIMARY KEY (xid, branch_id): a try that comes after its cancel would not be seen"]
        return []

    def _after_ms(self, delay_ms: int) -> str:
        return self._dialect.after.format(ms=delay_ms / 1000)

    def _insert(self, branch: Branch, status: FenceStatus, modified: str, *, locking: bool = False) -> Flow[bool]:
        """Whether the row is new. (A locking insert does not say: MySQL may count a row that it has found.)"""
        dialect = self._dialect
        head = dialect.insert_locking if locking else dialect.insert
        tail = dialect.tail_locking if locking else dialect.tail
        sql = f"{head} VALUES (?, ?, ?, {status:d}, {dialect.now}, {modified}){tail}"
        row = query(sql, (branch.xid, branch.branch_id, branch.action))
        done = yield from explained(row, TABLE, "troth tcc init URL")
        return done.rowcount == 1

    def _move(self, branch: Branch, before: FenceStatus, after: FenceStatus, also: str = "") -> Flow[bool]:
        set_ = f"SET status = {after:d}, gmt_modified = {self._dialect.now}"
        sql = f"UPDATE {TABLE} {set_} {_KEY} AND status = {before:d}{also}"
        done = yield from explained(query(sql, (branch.xid, branch.branch_id)), TABLE, "troth tcc init URL")
        return done.rowcount == 1

    def _status(self, branch: Branch) -> Flow[FenceStatus | None]:
        found = yield from query(f"SELECT status FROM {TABLE} {_KEY}", (branch.xid, branch.branch_id))
        return FenceStatus(int(str(found.rows[0][0]))) if found.rows else None


def found_at_confirm(branch: Branch, status: FenceStatus | None) -> Found:
    """What a confirm that found no row `tried` makes of the one that is there. Raises NotNow."""
    match status:
        case FenceStatus.COMMITTED:
            return Found.DONE
        case FenceStatus.TRYING:
            raise NotNow(f"the try of {branch} has not ended yet")
        case FenceStatus.ROLLBACKED | FenceStatus.SUSPENDED:
            raise NotNow(f"{branch} is cancelled already ({status.name.lower()}), so it cannot be confirmed")
        case None:
            raise NotNow(f"there was no try of {branch} in this database")
        case FenceStatus.TRIED:
            raise NotNow(f"{branch} has just been tried")


def found_at_cancel(branch: Branch, status: FenceStatus | None) -> Found:
    """What a cancel that found no row to move makes of the one that is there. Raises NotNow."""
    match status:
        case FenceStatus.ROLLBACKED | FenceStatus.SUSPENDED:
            return Found.DONE
        case FenceStatus.TRYING:
            raise NotNow(f"the try of {branch} may still run; it is cancelled when it has ended, or at its deadline")
        case FenceStatus.COMMITTED:
            raise NotNow(f"{branch} is confirmed already, so it cannot be cancelled")
        case _:
            raise NotNow(f"the row of {branch} changes while it is cancelled")
