"""Hooks: what they hear, in which order, and that nothing they do changes an outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import troth
from troth.client.client import Client
from troth.client.errors import CoordinatorRefused, NoTransaction, OutcomeUnknown, TransactionRolledBack
from troth.client.settings import ClientSettings
from troth.client.transaction import Transaction, global_transaction, transaction
from troth.wire.seata.enums import GlobalStatus, ResultCode
from troth.wire.seata.messages import (
    GlobalBeginRequest,
    GlobalBeginResponse,
    GlobalCommitRequest,
    GlobalCommitResponse,
    GlobalRollbackRequest,
    GlobalRollbackResponse,
)

EVENTS = ("before_begin", "after_begin", "before_commit", "after_commit", "before_rollback", "after_rollback")
WHOLE = ["before_begin", "after_begin", "before_commit", "after_commit", "after_completion Committed"]
UNDONE = ["before_begin", "after_begin", "before_rollback", "after_rollback", "after_completion Rollbacked"]


class Recorder(troth.TransactionHook):
    """Notes what it hears; `then` may do more."""

    def __init__(self, then: Callable[[str, Transaction], None] = lambda event, tx: None) -> None:
        self.heard: list[str] = []
        self.bound: dict[str, str | None] = {}
        self._then = then

    def note(self, event: str, tx: Transaction) -> None:
        self.heard.append(event)
        self.bound[event.split()[0]] = troth.current_xid()
        self._then(event, tx)

    def after_completion(self, tx: Transaction, status: GlobalStatus | None) -> None:
        self.note(f"after_completion {status.name if status else None}", tx)


class AsyncRecorder(Recorder):
    async def after_completion(self, tx: Transaction, status: GlobalStatus | None) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        super().after_completion(tx, status)


def _heard(event: str) -> Callable[[Recorder, Transaction], None]:
    return lambda self, tx: self.note(event, tx)


def _awaited(event: str) -> Callable[[Recorder, Transaction], Any]:
    async def method(self: Recorder, tx: Transaction) -> None:
        await asyncio.sleep(0)
        self.note(event, tx)

    return method


for _event in EVENTS:
    setattr(Recorder, _event, _heard(_event))
    setattr(AsyncRecorder, _event, _awaited(_event))

Body = Callable[[Transaction], None]


def run_sync(scope: Transaction, body: Body) -> None:
    with scope as tx:
        body(tx)


def run_async(scope: Transaction, body: Body) -> None:
    async def main() -> None:
        async with scope as tx:
            body(tx)

    asyncio.run(main())


WAYS = [(run_sync, Recorder), (run_async, Recorder), (run_async, AsyncRecorder)]


@pytest.fixture(params=WAYS, ids=["sync", "async", "async hooks"])
def way(request: pytest.FixtureRequest) -> tuple[Any, type[Recorder]]:
    return request.param


def nothing(_: Transaction) -> None:
    pass


def fail(_: Transaction) -> None:
    raise KeyError("stock")


def test_a_commit_and_a_rollback(coordinator: Any, client: Client, way: Any) -> None:
    run, kind = way
    hook = kind()
    coordinator.script(GlobalCommitRequest, GlobalCommitResponse(global_status=GlobalStatus.Committed))
    coordinator.script(GlobalRollbackRequest, GlobalRollbackResponse(global_status=GlobalStatus.Rollbacked))
    run(transaction(client=client, hooks=[hook]), nothing)
    assert hook.heard == WHOLE
    xid = "127.0.0.1:8091:1"
    assert hook.bound == {
        "before_begin": None,
        "after_begin": xid,
        "before_commit": xid,
        "after_commit": None,
        "after_completion": None,
    }
    hook.heard.clear()
    with pytest.raises(KeyError):
        run(transaction(client=client, hooks=[hook]), fail)
    assert hook.heard == UNDONE


def test_a_commit_that_was_rolled_back_is_told_as_it_is(coordinator: Any, client: Client, way: Any) -> None:
    run, kind = way
    hook = kind()
    coordinator.script(GlobalCommitRequest, GlobalCommitResponse(global_status=GlobalStatus.TimeoutRollbacked))
    with pytest.raises(TransactionRolledBack):
        run(transaction(client=client, hooks=[hook]), nothing)
    after = ["after_rollback", "after_completion TimeoutRollbacked"]
    assert hook.heard == ["before_begin", "after_begin", "before_commit", *after]


def test_a_vote_is_no_commit(coordinator: Any, client: Client, way: Any) -> None:
    run, kind = way
    hook = kind()
    coordinator.script(GlobalRollbackRequest, GlobalRollbackResponse(global_status=GlobalStatus.Rollbacked))
    with pytest.raises(TransactionRolledBack):
        run(transaction(client=client, hooks=[hook]), lambda tx: tx.rollback_only())
    assert hook.heard == UNDONE


def test_an_outcome_that_nobody_knows(coordinator: Any, connect: Any, quick: ClientSettings, way: Any) -> None:
    run, kind = way
    hook = kind()
    client = connect(replace(quick, commit_retry_timeout_s=0.2))
    coordinator.script(GlobalCommitRequest, *[coordinator.CUT] * 1000)
    with pytest.raises(OutcomeUnknown):
        run(transaction(client=client, hooks=[hook]), nothing)
    assert hook.heard == ["before_begin", "after_begin", "before_commit", "after_completion None"]


def test_a_begin_that_failed(coordinator: Any, client: Client, way: Any) -> None:
    run, kind = way
    hook = kind()
    coordinator.script(GlobalBeginRequest, GlobalBeginResponse(result_code=ResultCode.Failed, msg="too many"))
    with pytest.raises(CoordinatorRefused):
        run(transaction(client=client, hooks=[hook]), nothing)
    assert hook.heard == ["before_begin", "after_completion None"]


@pytest.mark.parametrize("event", [*EVENTS[:4], "after_completion Committed"])
def test_an_error_in_a_hook_is_logged_and_changes_nothing(
    event: str, coordinator: Any, client: Client, way: Any, caplog: pytest.LogCaptureFixture
) -> None:
    run, kind = way

    def then(heard: str, tx: Transaction) -> None:
        if heard == event:
            raise ZeroDivisionError

    sick, healthy = kind(then), kind()
    coordinator.script(GlobalCommitRequest, GlobalCommitResponse(global_status=GlobalStatus.Committed))
    run(transaction(client=client, hooks=[sick, healthy]), nothing)
    assert sick.heard == healthy.heard == WHOLE
    assert "ZeroDivisionError" in caplog.text
    assert len(coordinator.of(GlobalCommitRequest)) == 1


def test_a_hook_may_vote_before_the_commit(coordinator: Any, client: Client, way: Any) -> None:
    run, kind = way
    coordinator.script(GlobalRollbackRequest, GlobalRollbackResponse(global_status=GlobalStatus.Rollbacked))

    def then(heard: str, tx: Transaction) -> None:
        if heard == "before_commit":
            tx.rollback_only()

    hook = kind(then)
    with pytest.raises(TransactionRolledBack, match="rollback_only"):
        run(transaction(client=client, hooks=[hook]), nothing)
    after = ["before_rollback", "after_rollback", "after_completion Rollbacked"]
    assert hook.heard == ["before_begin", "after_begin", "before_commit", *after]
    assert not coordinator.of(GlobalCommitRequest)


@pytest.mark.parametrize("event", ["after_begin", "before_commit"])
def test_an_interrupt_in_a_hook_rolls_back(event: str, coordinator: Any, client: Client) -> None:
    def then(heard: str, tx: Transaction) -> None:
        if heard == event:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sync(transaction(client=client, hooks=[Recorder(then)]), nothing)
    assert troth.current_xid() is None
    assert len(coordinator.of(GlobalRollbackRequest)) == 1
    assert not coordinator.of(GlobalCommitRequest)


@pytest.mark.parametrize("event", ["after_begin", "before_commit"])
async def test_a_cancellation_in_a_hook_rolls_back(event: str, coordinator: Any, client: Client) -> None:
    def then(heard: str, tx: Transaction) -> None:
        if heard == event:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        async with transaction(client=client, hooks=[AsyncRecorder(then)]):
            pass
    assert troth.current_xid() is None
    assert len(coordinator.of(GlobalRollbackRequest)) == 1


def test_an_async_hook_in_a_blocking_scope_is_said(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    hook = AsyncRecorder()
    run_sync(transaction(client=client, hooks=[hook]), nothing)
    assert hook.heard == []
    assert "an async hook needs" in caplog.text


def test_hooks_that_come_later(client: Client) -> None:
    """From deep inside of the work, also under a scope that joins."""
    outer, inner = Recorder(), Recorder()
    with transaction(client=client) as tx:
        tx.add_hook(outer)
        with transaction(client=client) as joined:
            troth.add_hook(inner)
            assert not joined.owner
        assert inner.heard == []
        with transaction(client=client) as again:
            again.add_hook(inner)
    assert outer.heard == ["before_commit", "after_commit", "after_completion Committed"]
    assert inner.heard == [name for name in outer.heard for _ in range(2)]


def test_only_who_ends_it_has_hooks(client: Client) -> None:
    hook = Recorder()
    with pytest.raises(NoTransaction, match="outside"):
        troth.add_hook(hook)
    with troth.join("127.0.0.1:8091:77"):
        with pytest.raises(NoTransaction, match="begun elsewhere"):
            troth.add_hook(hook)
        with transaction(client=client, hooks=[hook]) as joined, pytest.raises(NoTransaction, match="begun"):
            joined.add_hook(hook)
    with transaction(client=client), troth.suspend(), pytest.raises(NoTransaction, match="outside"):
        troth.add_hook(hook)
    assert hook.heard == []


def test_each_transaction_tells_its_own(client: Client) -> None:
    outer, inner = Recorder(), Recorder()
    new = troth.Propagation.REQUIRES_NEW
    with (
        transaction(client=client, hooks=[outer]),
        transaction(client=client, propagation=new, hooks=[inner]),
    ):
        troth.add_hook(inner)
    assert outer.heard == [*WHOLE[:4], "after_completion Committed"]
    assert inner.heard.count("after_commit") == 2


def test_the_decorator_takes_them(client: Client) -> None:
    hook = Recorder()

    @global_transaction(client=client, hooks=(one for one in [hook]))
    def purchase() -> None:
        pass

    purchase()
    purchase()
    assert hook.heard == WHOLE * 2
    with pytest.raises(TypeError, match="TransactionHook"):
        global_transaction(hooks=["no hook"])  # type: ignore[list-item]
