"""A coordinator for tests: it keeps row locks and branches, and drives phase two by the registered handlers."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

import troth.at
from troth.client.context import join
from troth.client.flow import ResourceHandler
from troth.client.settings import ClientSettings
from troth.wire.seata.enums import BranchStatus, BranchType, ResultCode, TransactionExceptionCode
from troth.wire.seata.lock_wait import NOT_NEGOTIATED, LockWaitRequest
from troth.wire.seata.messages import (
    BranchCommitRequest,
    BranchRegisterRequest,
    BranchRegisterResponse,
    BranchReportRequest,
    BranchReportResponse,
    BranchRollbackRequest,
    BranchRollbackResponse,
    GlobalLockQueryRequest,
    GlobalLockQueryResponse,
    Message,
)


class FakeCoordinator:
    """Implements `ResourceClient`. `refuse` makes the next registrations fail with an error of the caller's choice."""

    def __init__(self) -> None:
        self.settings = ClientSettings(lock_retry_interval_s=0.001, lock_retry_times=3)
        self.messages: list[Message] = []
        self.handlers: dict[str, ResourceHandler] = {}
        self.locks: dict[tuple[str, str, str], str] = {}
        self.branches: list[tuple[int, BranchRegisterRequest]] = []
        self.before_answer: Callable[[BranchRegisterRequest], None] | None = None
        self.error: Exception | None = None
        self.says = ""

    def register_resource(self, resource_id: str, branch_type: BranchType, handler: ResourceHandler) -> None:
        assert branch_type is BranchType.AT
        self.handlers[resource_id] = handler

    async def atell(self, message: Message) -> Message:
        return self.tell(message)

    def tell(self, message: Message) -> Message:
        self.messages.append(message)
        if self.error is not None:
            raise self.error
        match message:
            case GlobalLockQueryRequest():
                return GlobalLockQueryResponse(lockable=self._held(message) is None)
            case LockWaitRequest():
                return NOT_NEGOTIATED
            case BranchRegisterRequest():
                return self._register(message)
            case BranchReportRequest():
                return BranchReportResponse()
            case _:
                raise AssertionError(message)

    def _rows(self, request: BranchRegisterRequest) -> list[tuple[str, str, str]]:
        assert request.resource_id is not None
        rows = []
        for part in (request.lock_key or "").split(";"):
            table, colon, keys = part.partition(":")
            assert table
            assert colon
            for key in keys.split(","):
                assert key
                rows.append((request.resource_id, table, key))
        return rows

    def _held(self, request: BranchRegisterRequest) -> str | None:
        return next((self.locks[r] for r in self._rows(request) if self.locks.get(r, request.xid) != request.xid), None)

    def _register(self, request: BranchRegisterRequest) -> BranchRegisterResponse:
        assert request.xid is not None
        if self._held(request) is not None:
            code = TransactionExceptionCode.LockKeyConflict
            said = f"Global lock acquire failed {self.says}"
            return BranchRegisterResponse(ResultCode.Failed, said, code)
        self.locks.update(dict.fromkeys(self._rows(request), request.xid))
        branch_id = 1000 + len(self.branches)
        self.branches.append((branch_id, request))
        if self.before_answer is not None:
            self.before_answer(request)
        return BranchRegisterResponse(branch_id=branch_id)

    @property
    def lock_texts(self) -> list[str | None]:
        return [request.lock_key for _, request in self.branches]

    @property
    def reports(self) -> list[BranchStatus]:
        return [message.status for message in self.messages if isinstance(message, BranchReportRequest)]

    def _of(self, xid: str) -> list[tuple[int, BranchRegisterRequest]]:
        return [(branch_id, request) for branch_id, request in self.branches if request.xid == xid]

    def _release(self, xid: str) -> None:
        self.locks = {row: holder for row, holder in self.locks.items() if holder != xid}
        self.branches = [(branch_id, request) for branch_id, request in self.branches if request.xid != xid]

    def commit(self, xid: str) -> None:
        by_resource: dict[str, list[BranchCommitRequest]] = {}
        for branch_id, request in self._of(xid):
            resource = request.resource_id or ""
            by_resource.setdefault(resource, []).append(
                BranchCommitRequest(xid, branch_id, BranchType.AT, resource, request.application_data)
            )
        for resource, requests in by_resource.items():
            answers = self.handlers[resource].commit(requests)
            assert [answer.branch_id for answer in answers] == [request.branch_id for request in requests]
            assert {answer.branch_status for answer in answers} == {BranchStatus.PhaseTwo_Committed}, answers
        self._release(xid)

    def try_rollback(self, xid: str) -> list[BranchRollbackResponse]:
        answers = []
        for branch_id, request in reversed(self._of(xid)):
            resource = request.resource_id or ""
            undo = BranchRollbackRequest(xid, branch_id, BranchType.AT, resource, request.application_data)
            answers.append(self.handlers[resource].rollback(undo))
            if answers[-1].branch_status is not BranchStatus.PhaseTwo_Rollbacked:
                return answers
        self._release(xid)
        return answers

    def rollback(self, xid: str) -> None:
        for answer in self.try_rollback(xid):
            assert answer.branch_status is BranchStatus.PhaseTwo_Rollbacked, answer


class Database:
    """A SQLite file with an undo table, looked at past AT."""

    def __init__(self, path: Path, coordinator: FakeCoordinator) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"
        self.coordinator = coordinator
        self._opened: list[troth.at.Connection] = []
        troth.at.init(self.url)

    def connect(self, **options: object) -> troth.at.Connection:
        connection = troth.at.connect(self.url, client=self.coordinator, **options)
        self._opened.append(connection)
        return connection

    def run(self, script: str) -> None:
        with closing(sqlite3.connect(self.path)) as raw:
            raw.executescript(script)

    def rows(self, sql: str, *parameters: object) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.path)) as raw:
            return raw.execute(sql, parameters).fetchall()

    def dump(self) -> dict[str, list[tuple[object, ...]]]:
        """Every row of every table but the undo log, each value with its storage class."""
        tables = self.rows("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        found = {}
        for (name,) in tables:
            if name != "undo_log":
                columns = [row[0] for row in self.rows("SELECT name FROM pragma_table_xinfo(?)", name)]
                shown = ", ".join(f'"{column}", typeof("{column}")' for column in columns)
                found[str(name)] = sorted(self.rows(f'SELECT {shown} FROM "{name}"'), key=repr)
        return found

    def undo_rows(self) -> list[tuple[object, ...]]:
        return self.rows("SELECT xid, branch_id, log_status, context, rollback_info FROM undo_log ORDER BY branch_id")

    def close(self) -> None:
        for connection in self._opened:
            connection.close()


@pytest.fixture
def coordinator() -> FakeCoordinator:
    return FakeCoordinator()


@pytest.fixture
def database(tmp_path: Path, coordinator: FakeCoordinator) -> Iterator[Database]:
    made = Database(tmp_path / "shop.db", coordinator)
    made.run(
        """
        CREATE TABLE account (id INTEGER PRIMARY KEY, name TEXT, balance REAL, data BLOB);
        INSERT INTO account VALUES (1, 'ann', 100, x'00ff'), (2, 'bob', 50.5, NULL), (3, NULL, -1, x'');
        CREATE TABLE pair (a INTEGER, b TEXT, v, PRIMARY KEY (a, b)) WITHOUT ROWID;
        INSERT INTO pair VALUES (1, 'x', 10), (1, 'y', 20), (2, 'x', 30);
        """
    )
    yield made
    made.close()


@pytest.fixture
def in_global() -> Callable[[str], object]:
    return join
