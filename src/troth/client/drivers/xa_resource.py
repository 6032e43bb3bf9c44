"""XA: phase two of one database on connections of its own, and its name at the coordinator."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

from troth.client.drivers.psycopg_place import PostgresUrl
from troth.client.drivers.psycopg_place import opened as postgres_opened
from troth.client.drivers.resource import NoCoordinator
from troth.client.drivers.running import Executor, run
from troth.client.drivers.served import Database, ServedDatabase
from troth.client.flow import Flow, ResourceClient, ResourceHandler
from troth.client.modes.frozen import Frozen
from troth.client.modes.xa import BranchFacts, end_on_postgres
from troth.wire.seata.enums import BranchStatus, BranchType, ResultCode, TransactionExceptionCode
from troth.wire.seata.messages import (
    BranchCommitRequest,
    BranchCommitResponse,
    BranchRollbackRequest,
    BranchRollbackResponse,
)

log = logging.getLogger(__name__)

_LONGEST_MESSAGE: Final = 4000


class End(Protocol):
    """The flow that ends a branch: `end_on_postgres`, `end_on_mysql`."""

    def __call__(self, xid: str, branch_id: int, facts: BranchFacts, *, commit: bool) -> Flow[None]:
        """Raises NotYet, Frozen, and the driver's errors."""
        ...


class XaResource:
    """`ResourceHandler` of one database. `opened` gives a new connection in autocommit."""

    def __init__(self, opened: Callable[[], AbstractContextManager[Executor]], end: End) -> None:
        self._opened = opened
        self._end = end

    def commit(self, requests: list[BranchCommitRequest]) -> list[BranchCommitResponse]:
        """Commit prepared branches, each by itself."""
        return [self._commit(request) for request in requests]

    def _commit(self, request: BranchCommitRequest) -> BranchCommitResponse:
        error = self._trouble(request, commit=True)
        if error is None:
            return BranchCommitResponse(
                xid=request.xid, branch_id=request.branch_id, branch_status=BranchStatus.PhaseTwo_Committed
            )
        frozen = isinstance(error, Frozen)
        return BranchCommitResponse(
            result_code=ResultCode.Failed,
            msg=_text(error),
            xid=request.xid,
            branch_id=request.branch_id,
            branch_status=(
                BranchStatus.PhaseTwo_CommitFailed_Unretryable
                if frozen
                else BranchStatus.PhaseTwo_CommitFailed_Retryable
            ),
        )

    def rollback(self, request: BranchRollbackRequest) -> BranchRollbackResponse:
        """Roll a prepared branch back; one that was never prepared is rolled back when its local transaction is."""
        error = self._trouble(request, commit=False)
        if error is None:
            return BranchRollbackResponse(
                xid=request.xid, branch_id=request.branch_id, branch_status=BranchStatus.PhaseTwo_Rollbacked
            )
        codes, statuses, frozen = TransactionExceptionCode, BranchStatus, isinstance(error, Frozen)
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

    def _trouble(self, request: BranchCommitRequest | BranchRollbackRequest, *, commit: bool) -> Exception | None:
        try:
            facts = BranchFacts.parse(request.application_data)
            with self._opened() as executor:
                run(self._end(request.xid or "", request.branch_id, facts, commit=commit), executor, NoCoordinator())
        except Exception as error:  # noqa: BLE001 - whatever it is, the coordinator hears of it
            log.warning("XA branch %d of %s has not ended: %s", request.branch_id, request.xid, error)
            return error
        return None

    def delete_undo_logs(self, save_days: int) -> None:
        """XA keeps nothing in the database that would have to be swept."""


def _text(error: Exception) -> str:
    kind = "" if isinstance(error, Frozen) else f"{type(error).__name__}: "
    return f"{kind}{error}"[:_LONGEST_MESSAGE]


def postgres_resource(url: PostgresUrl) -> XaResource:
    """Phase two of a PostgreSQL database."""
    return XaResource(lambda: postgres_opened(url), end_on_postgres)


class XaServed(ServedDatabase):
    """A database under XA, at the coordinator."""

    def __init__(self, resource_id: str, handler: ResourceHandler, client: ResourceClient | None) -> None:
        super().__init__(Database(resource_id, BranchType.XA, handler), client)


def without(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """`options` but for `names`."""
    return {name: value for name, value in options.items() if name not in names}
