"""SQLite files: opening them, running queries on them, and phase two (`SqliteResource`)."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar
from urllib.parse import parse_qsl, quote

from troth.client.drivers.running import run
from troth.client.errors import NotSupported
from troth.client.flow import Flow, Query, Rows
from troth.client.modes.at_phase_two import Frozen, commit_branches, delete_undo_logs, roll_back_branch
from troth.client.sql.dialects.base import Fault
from troth.client.sql.dialects.sqlite import MINIMUM_VERSION, SqliteDialect, resource_id
from troth.wire.seata.enums import BranchStatus, ResultCode, TransactionExceptionCode
from troth.wire.seata.messages import (
    BranchCommitRequest,
    BranchCommitResponse,
    BranchRollbackRequest,
    BranchRollbackResponse,
    Message,
)

log = logging.getLogger(__name__)

_LONGEST_MESSAGE = 4000
R = TypeVar("R")

_FLAGS = MappingProxyType({"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False})


@dataclass(frozen=True, slots=True)
class SqliteUrl:
    """A database file and how its URL says to open it."""

    path: str
    options: Mapping[str, object]

    @property
    def resource_id(self) -> str:
        """`jdbc:sqlite:/abs/path`. Links are followed, so that one file has one name; a comma would split a list."""
        return resource_id(os.path.realpath(self.path).replace(",", "%2C"))


def parse_url(url: str) -> SqliteUrl:
    """A SQLite URL as SQLAlchemy spells it: `sqlite:///relative`, `sqlite:////absolute`, options behind `?`.

    Raises:
        NotSupported: a database in memory, which phase two cannot reach; or another kind of database.
        ValueError: not such a URL, or an option that is not known.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ValueError(f"{url!r} is not a database URL: write sqlite:///relative/path or sqlite:////absolute/path")
    if scheme.partition("+")[0] != "sqlite":
        raise NotSupported(f"AT on {scheme!r} is not supported by this version.", "It has AT on sqlite://.")
    database, _, options = rest.partition("?")
    if database and not database.startswith("/"):
        raise ValueError(f"{url!r} has a host, and SQLite has none: write three slashes before the path")
    path = database[1:]
    if path in ("", ":memory:") or path.startswith("file:"):
        raise NotSupported(
            f"AT cannot work on {url!r}: phase two runs on connections of its own, and needs a file they can open.",
            "Use a file, for example sqlite:////tmp/test.db.",
        )
    return SqliteUrl(path, dict(_option(name, text) for name, text in parse_qsl(options, keep_blank_values=True)))


def _option(name: str, text: str) -> tuple[str, object]:
    match name:
        case "timeout":
            return name, float(text)
        case "detect_types" | "cached_statements":
            return name, int(text)
        case "isolation_level":
            return name, text
        case "check_same_thread" if text.lower() in _FLAGS:
            return name, _FLAGS[text.lower()]
        case _:
            raise ValueError(f"the option {name}={text} of a SQLite URL is not known")


def check_version() -> None:
    """Raises NotSupported where the SQLite library is too old."""
    if sqlite3.sqlite_version_info < MINIMUM_VERSION:
        needed = ".".join(map(str, MINIMUM_VERSION))
        raise NotSupported(
            f"AT needs SQLite {needed}, and Python brings {sqlite3.sqlite_version}.", "Use a newer Python or SQLite."
        )


class SqliteExecutor:
    """Runs the queries of a flow on `raw`. The user's own statement runs on the user's cursor."""

    def __init__(self, raw: sqlite3.Connection, user_cursor: sqlite3.Cursor | None = None) -> None:
        self._raw = raw
        self._user_cursor = user_cursor

    def query(self, step: Query) -> Rows:
        """Run it, and fetch everything as plain tuples."""
        if step.as_user and self._user_cursor is not None:
            return self._run(self._user_cursor, step)
        with closing(self._raw.cursor()) as cursor:
            return self._run(cursor, step)

    def _run(self, cursor: sqlite3.Cursor, step: Query) -> Rows:
        row_factory, cursor.row_factory = cursor.row_factory, None
        try:
            cursor.execute(step.sql, step.parameters)
            rows = cursor.fetchall()
        finally:
            cursor.row_factory = row_factory
        columns = tuple(column[0] for column in cursor.description or ())
        return Rows(columns, rows, cursor.rowcount, cursor.lastrowid)


class NoCoordinator:
    """For flows that have nothing to tell."""

    def tell(self, message: Message) -> Message:
        """Raises TypeError."""
        raise TypeError(f"this flow has no coordinator to send {type(message).__name__} to")

    async def atell(self, message: Message) -> Message:
        """Raises TypeError."""
        return self.tell(message)


@contextmanager
def opened(path: str, timeout_s: float, mode: str = "rw") -> Iterator[SqliteExecutor]:
    """A connection of our own; every statement commits by itself. The file must exist, unless `mode` is `rwc`."""
    uri = f"file:{quote(os.path.abspath(path))}?mode={mode}"
    with closing(sqlite3.connect(uri, uri=True, timeout=timeout_s, isolation_level=None)) as raw:
        yield SqliteExecutor(raw)


def run_on_file(path: str, flow: Flow[R], *, create: bool, timeout_s: float = 5.0) -> R:
    """Run a flow that needs no coordinator on a connection of its own. `create`: make the file if it is not there."""
    with opened(path, timeout_s, mode="rwc" if create else "rw") as executor:
        return run(flow, executor, NoCoordinator())


class SqliteResource:
    """Phase two of one database file, on connections of its own. A lock is waited for `timeout_s`, then "later"."""

    def __init__(self, path: str, timeout_s: float = 2.0) -> None:
        self._path = os.path.abspath(path)
        self._timeout_s = timeout_s

    def commit(self, requests: list[BranchCommitRequest]) -> list[BranchCommitResponse]:
        """Delete the undo rows of a batch of branches in one local transaction."""
        dialect = SqliteDialect()
        branches = [(request.xid or "", request.branch_id) for request in requests]
        try:
            with opened(self._path, self._timeout_s) as executor:
                run(commit_branches(dialect, branches), executor, NoCoordinator())
        except Exception as error:  # noqa: BLE001 - whatever it is, the coordinator hears of it and asks again
            log.warning("undo rows of %d committed branches are not deleted yet: %s", len(requests), error)
            return [_not_committed(request, error) for request in requests]
        return [
            BranchCommitResponse(
                xid=request.xid, branch_id=request.branch_id, branch_status=BranchStatus.PhaseTwo_Committed
            )
            for request in requests
        ]

    def rollback(self, request: BranchRollbackRequest) -> BranchRollbackResponse:
        """Undo one branch. The response's `msg` says why, if it could not be."""
        dialect = SqliteDialect()
        try:
            with opened(self._path, self._timeout_s) as executor:
                run(roll_back_branch(dialect, request.xid or "", request.branch_id), executor, NoCoordinator())
        except Exception as error:  # noqa: BLE001 - whatever it is, the coordinator hears of it
            log.warning("branch %d of %s is not undone: %s", request.branch_id, request.xid, error)
            return _not_rolled_back(request, error, frozen=_is_final(dialect, error))
        return BranchRollbackResponse(
            xid=request.xid, branch_id=request.branch_id, branch_status=BranchStatus.PhaseTwo_Rollbacked
        )

    def delete_undo_logs(self, save_days: int) -> None:
        """Delete undo rows older than `save_days` days."""
        with opened(self._path, self._timeout_s) as executor:
            run(delete_undo_logs(SqliteDialect(), save_days), executor, NoCoordinator())


def _is_final(dialect: SqliteDialect, error: Exception) -> bool:
    """Whether trying again can not help: a dirty or blocked row, a constraint, an undo row that cannot be read."""
    return isinstance(error, Frozen | ValueError) or dialect.fault(error) is Fault.CONSTRAINT


def _not_committed(request: BranchCommitRequest, error: Exception) -> BranchCommitResponse:
    return BranchCommitResponse(
        result_code=ResultCode.Failed,
        msg=_text(error),
        xid=request.xid,
        branch_id=request.branch_id,
        branch_status=BranchStatus.PhaseTwo_CommitFailed_Retryable,
    )


def _not_rolled_back(request: BranchRollbackRequest, error: Exception, *, frozen: bool) -> BranchRollbackResponse:
    # Only a Failed response carries its text over the wire; the branch status is what counts.
    codes = TransactionExceptionCode
    statuses = BranchStatus
    return BranchRollbackResponse(
        result_code=ResultCode.Failed,
        msg=_text(error),
        transaction_exception_code=(
            codes.BranchRollbackFailed_Unretriable if frozen else codes.BranchRollbackFailed_Retriable
        ),
        xid=request.xid,
        branch_id=request.branch_id,
        branch_status=(
            statuses.PhaseTwo_RollbackFailed_Unretryable if frozen else statuses.PhaseTwo_RollbackFailed_Retryable
        ),
    )


def _text(error: Exception) -> str:
    kind = "" if isinstance(error, Frozen) else f"{type(error).__name__}: "
    notes = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
    return f"{kind}{error}{notes}"[:_LONGEST_MESSAGE]
