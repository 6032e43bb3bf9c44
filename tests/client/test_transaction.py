"""Scopes and decorators over a real socket: who begins, who ends, and what the caller hears. Sync and async."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

import troth
from troth.client.client import Client
from troth.client.drive import through_cancellation
from troth.client.errors import (
    CoordinatorRefused,
    NotInitialised,
    NoTransaction,
    OutcomeUnknown,
    PropagationRefused,
    TransactionRolledBack,
    VoteNotTaken,
)
from troth.client.propagation import Propagation
from troth.client.settings import ClientSettings
from troth.client.transaction import Transaction, global_transaction, transaction
from troth.wire.seata.enums import GlobalStatus, ResultCode
from troth.wire.seata.messages import (
    GlobalBeginRequest,
    GlobalBeginResponse,
    GlobalCommitRequest,
    GlobalCommitResponse,
    GlobalReportRequest,
    GlobalReportResponse,
    GlobalRollbackRequest,
    GlobalRollbackResponse,
)

Body = Callable[[Transaction], None]


def run_sync(scope: Transaction, body: Body) -> None:
    with scope as tx:
        body(tx)


def run_async(scope: Transaction, body: Body) -> None:
    async def main() -> None:
        async with scope as tx:
            body(tx)

    asyncio.run(main())


@pytest.fixture(params=[run_sync, run_async])
def run(request: pytest.FixtureRequest) -> Callable[[Transaction, Body], None]:
    return request.param


def nothing(_: Transaction) -> None:
    pass


def fail(_: Transaction) -> None:
    raise KeyError("stock")


class TestEnd:
    def test_leaving_normally_commits(self, coordinator: Any, client: Client, run: Any) -> None:
        seen = []

        def body(tx: Transaction) -> None:
            seen.append((tx.xid, troth.current_xid(), tx.owner))

        run(transaction("purchase", timedelta(seconds=7), client=client), body)
        assert seen == [("127.0.0.1:8091:1", "127.0.0.1:8091:1", True)]
        assert coordinator.of(GlobalBeginRequest) == [GlobalBeginRequest(timeout_ms=7000, transaction_name="purchase")]
        assert coordinator.of(GlobalCommitRequest) == [GlobalCommitRequest(xid="127.0.0.1:8091:1")]
        assert troth.current_xid() is None

    def test_an_exception_rolls_back_and_goes_on(self, coordinator: Any, client: Client, run: Any) -> None:
        with pytest.raises(KeyError, match="stock") as caught:
            run(transaction(client=client), fail)
        assert not getattr(caught.value, "__notes__", [])
        assert coordinator.of(GlobalRollbackRequest) == [GlobalRollbackRequest(xid="127.0.0.1:8091:1")]
        assert not coordinator.of(GlobalCommitRequest)
        assert troth.current_xid() is None

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
    def test_so_do_those_that_are_no_errors(self, coordinator: Any, client: Client, kind: type[BaseException]) -> None:
        with pytest.raises(kind), transaction(client=client):
            raise kind
        assert len(coordinator.of(GlobalRollbackRequest)) == 1

    def test_a_commit_that_was_rolled_back_is_raised(self, coordinator: Any, client: Client, run: Any) -> None:
        coordinator.script(GlobalCommitRequest, GlobalCommitResponse(global_status=GlobalStatus.TimeoutRollbacked))
        with pytest.raises(TransactionRolledBack, match="timeout"):
            run(transaction(client=client), nothing)
        assert not coordinator.of(GlobalRollbackRequest)

    def test_a_begin_that_is_refused_runs_nothing(self, coordinator: Any, client: Client, run: Any) -> None:
        coordinator.script(GlobalBeginRequest, GlobalBeginResponse(result_code=ResultCode.Failed, msg="too many"))
        with pytest.raises(CoordinatorRefused, match="too many"):
            run(transaction(client=client), fail)
        assert troth.current_xid() is None

    def test_a_rollback_that_could_not_be_asked_is_noted(
        self, coordinator: Any, connect: Any, run: Any, quick: ClientSettings, caplog: pytest.LogCaptureFixture
    ) -> None:
        client = connect(replace(quick, rollback_retry_timeout_s=0.2))
        coordinator.script(GlobalRollbackRequest, *[coordinator.CUT] * 1000)
        with pytest.raises(KeyError) as caught:
            run(transaction(client=client), fail)
        assert "timeout will do it" in caught.value.__notes__[0]
        assert "timeout will do it" in caplog.text

    def test_a_rollback_that_failed_is_noted(self, coordinator: Any, client: Client, run: Any) -> None:
        coordinator.script(GlobalRollbackRequest, GlobalRollbackResponse(global_status=GlobalStatus.RollbackFailed))
        with pytest.raises(KeyError) as caught:
            run(transaction(client=client), fail)
        assert "RollbackFailed" in caught.value.__notes__[0]

    def test_no_rollback_for(self, coordinator: Any, client: Client, run: Any) -> None:
        with pytest.raises(KeyError):
            run(transaction(client=client, no_rollback_for=(LookupError,)), fail)
        assert len(coordinator.of(GlobalCommitRequest)) == 1

    def test_a_scope_serves_one_with(self, client: Client) -> None:
        scope = transaction(client=client)
        with scope:
            pass
        with pytest.raises(RuntimeError, match="used already"), scope:
            pass


class TestLostAnswers:
    def test_a_lost_begin_is_asked_again(self, coordinator: Any, client: Client, run: Any) -> None:
        coordinator.script(GlobalBeginRequest, coordinator.CUT)
        run(transaction(client=client), nothing)
        assert len(coordinator.of(GlobalBeginRequest)) == 2

    def test_a_lost_commit_is_asked_again(self, coordinator: Any, client: Client, run: Any) -> None:
        coordinator.script(GlobalCommitRequest, coordinator.CUT, coordinator.CUT)
        run(transaction(client=client), nothing)
        assert coordinator.of(GlobalCommitRequest) == [GlobalCommitRequest(xid="127.0.0.1:8091:1")] * 3

    def test_a_commit_lost_and_forgotten_is_unknown(self, coordinator: Any, client: Client, run: Any) -> None:
        coordinator.script(
            GlobalCommitRequest, coordinator.CUT, GlobalCommitResponse(global_status=GlobalStatus.Finished)
        )
        with pytest.raises(OutcomeUnknown):
            run(transaction(client=client), nothing)

    def test_a_commit_never_answered_is_unknown(
        self, coordinator: Any, connect: Any, run: Any, quick: ClientSettings
    ) -> None:
        client = connect(replace(quick, commit_retry_timeout_s=0.2))
        coordinator.script(GlobalCommitRequest, *[coordinator.CUT] * 1000)
        with pytest.raises(OutcomeUnknown, match=r"127\.0\.0\.1:8091:1"):
            run(transaction(client=client), nothing)


class TestVote:
    def test_the_owner_hears_of_its_own_vote(self, coordinator: Any, client: Client, run: Any) -> None:
        with pytest.raises(TransactionRolledBack, match="rollback_only"):
            run(transaction(client=client), lambda tx: tx.rollback_only())
        vote = GlobalReportRequest(xid="127.0.0.1:8091:1", global_status=GlobalStatus.Rollbacking)
        assert coordinator.of(GlobalReportRequest) == [vote]
        assert not coordinator.of(GlobalCommitRequest)

    def test_a_vote_that_is_not_taken_is_raised(self, coordinator: Any, client: Client, run: Any) -> None:
        coordinator.script(GlobalReportRequest, GlobalReportResponse(global_status=GlobalStatus.Begin))
        with pytest.raises(VoteNotTaken, match="Begin"):
            run(transaction(client=client), lambda tx: tx.rollback_only())
        assert len(coordinator.of(GlobalRollbackRequest)) == 1

    def test_an_owner_rolls_back_even_if_that_error_is_swallowed(self, coordinator: Any, client: Client) -> None:
        coordinator.script(GlobalReportRequest, GlobalReportResponse(global_status=GlobalStatus.Begin))
        with pytest.raises(TransactionRolledBack), transaction(client=client) as tx, pytest.raises(VoteNotTaken):
            tx.rollback_only()
        assert not coordinator.of(GlobalCommitRequest)

    def test_a_participant_votes_for_its_xid(self, coordinator: Any, client: Client) -> None:
        with troth.join("127.0.0.1:8091:77"):
            troth.rollback_only(client=client)
        assert coordinator.of(GlobalReportRequest)[0].xid == "127.0.0.1:8091:77"
        with pytest.raises(NoTransaction):
            troth.rollback_only(client=client)

    async def test_async_votes(self, coordinator: Any, client: Client) -> None:
        async with troth.join("x"):
            await troth.arollback_only(client=client)

        async def voting() -> None:
            async with transaction(client=client) as tx:
                assert await tx.astatus() is GlobalStatus.Begin
                await tx.arollback_only()

        with pytest.raises(TransactionRolledBack):
            await voting()
        assert [vote.xid for vote in coordinator.of(GlobalReportRequest)] == ["x", "127.0.0.1:8091:1"]


class TestNesting:
    def test_required_joins_and_leaves_the_end_to_its_owner(self, coordinator: Any, client: Client, run: Any) -> None:
        def body(outer: Transaction) -> None:
            with transaction("inner", client=client) as inner:
                assert inner.xid == outer.xid
                assert not inner.owner
            assert not coordinator.of(GlobalCommitRequest)

        run(transaction("outer", client=client), body)
        assert len(coordinator.of(GlobalBeginRequest)) == len(coordinator.of(GlobalCommitRequest)) == 1

    def test_requires_new_sets_the_outer_one_aside(self, coordinator: Any, client: Client, run: Any) -> None:
        def body(outer: Transaction) -> None:
            with transaction(propagation=Propagation.REQUIRES_NEW, client=client) as inner:
                assert inner.owner
                assert troth.current_xid() == inner.xid != outer.xid
            assert troth.current_xid() == outer.xid

        run(transaction(client=client), body)
        assert [c.xid[-1] for c in coordinator.of(GlobalCommitRequest)] == ["2", "1"]

    def test_not_supported_works_outside(self, client: Client, run: Any) -> None:
        def body(outer: Transaction) -> None:
            with transaction(propagation=Propagation.NOT_SUPPORTED, client=client) as inner:
                assert troth.current_xid() is None
                with pytest.raises(NoTransaction):
                    assert inner.xid
            assert troth.current_xid() == outer.xid

        run(transaction(client=client), body)

    def test_refusals_change_nothing(self, coordinator: Any, client: Client, run: Any) -> None:
        with pytest.raises(PropagationRefused):
            run(transaction(propagation=Propagation.MANDATORY, client=client), nothing)
        with troth.join("x"), pytest.raises(PropagationRefused):
            run(transaction(propagation=Propagation.NEVER, client=client), nothing)
        assert not coordinator.of(GlobalBeginRequest)

    def test_threads_have_transactions_of_their_own(self, coordinator: Any, client: Client) -> None:
        def work(_: int) -> str:
            with transaction(client=client) as tx:
                assert troth.current_xid() == tx.xid
                return tx.xid

        with ThreadPoolExecutor(8) as pool:
            xids = list(pool.map(work, range(40)))
        assert len(set(xids)) == 40
        assert {commit.xid for commit in coordinator.of(GlobalCommitRequest)} == set(xids)

    async def test_tasks_have_transactions_of_their_own(self, client: Client) -> None:
        async def work() -> str:
            async with transaction(client=client) as tx:
                await asyncio.sleep(0)
                assert troth.current_xid() == tx.xid
                return tx.xid

        assert len(set(await asyncio.gather(*(work() for _ in range(40))))) == 40
        assert troth.current_xid() is None


class TestDecorator:
    def test_sync(self, coordinator: Any, client: Client) -> None:
        @global_transaction(name="purchase", timeout=timedelta(seconds=3), client=client)
        def purchase(user: str, *, count: int) -> tuple[str, int, str | None]:
            """Buys."""
            return user, count, troth.current_xid()

        assert purchase("U1", count=2) == ("U1", 2, "127.0.0.1:8091:1")
        assert purchase("U1", count=2)[2] == "127.0.0.1:8091:2"
        assert (purchase.__name__, purchase.__doc__) == ("purchase", "Buys.")
        assert coordinator.of(GlobalBeginRequest)[0].transaction_name == "purchase"

    async def test_async_and_bare(self, coordinator: Any, connect: Any) -> None:
        troth.init(coordinator.address)

        @troth.global_transaction
        async def purchase() -> str | None:
            return troth.current_xid()

        try:
            assert inspect.iscoroutinefunction(purchase)
            assert await purchase() == "127.0.0.1:8091:1"
            assert coordinator.of(GlobalBeginRequest)[0].transaction_name.endswith("purchase")
        finally:
            troth.close()

    def test_a_method(self, client: Client) -> None:
        class Shop:
            @global_transaction(client=client)
            def purchase(self, count: int) -> int:
                return count

        assert Shop().purchase(2) == 2

    def test_generators_are_refused(self) -> None:
        def generator() -> Iterator[int]:
            yield 1

        async def async_generator() -> AsyncIterator[int]:
            yield 1

        for function in (generator, async_generator):
            with pytest.raises(TypeError, match="generator"):
                global_transaction(function)

    def test_a_wrong_timeout_is_told_where_it_is_written(self) -> None:
        with pytest.raises(TypeError, match="timedelta"):
            global_transaction(timeout=60)  # type: ignore[call-overload]

    def test_without_a_client(self) -> None:
        troth.close()

        @troth.global_transaction
        def purchase() -> None:
            raise AssertionError("the body must not run")

        with pytest.raises(NotInitialised, match=r"troth\.init"):
            purchase()


class TestCancellation:
    async def test_a_cancelled_body_rolls_back(self, coordinator: Any, client: Client) -> None:
        entered = asyncio.Event()

        async def work() -> None:
            async with transaction(client=client):
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(coordinator.of(GlobalRollbackRequest)) == 1

    async def test_a_commit_is_heard_out_before_the_cancellation_goes_on(
        self, coordinator: Any, client: Client
    ) -> None:
        coordinator.script(GlobalCommitRequest, coordinator.NOTHING)

        async def work() -> None:
            async with transaction(client=client):
                pass

        task = asyncio.create_task(work())
        await asyncio.to_thread(coordinator.wait_for, GlobalCommitRequest)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        coordinator.cut_all()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert "committing 127.0.0.1:8091:1; that ended: done" in caught.value.__notes__[0]
        assert len(coordinator.of(GlobalCommitRequest)) == 2

    async def test_a_second_cancellation_is_not_held_back(self) -> None:
        released = asyncio.Event()
        finished = asyncio.Event()

        async def end() -> None:
            await released.wait()
            finished.set()

        task = asyncio.create_task(through_cancellation(end(), "committing"))
        for _ in range(2):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not finished.is_set()
        released.set()
        await finished.wait()
