"""The client of DTM's style on real servers: each kind of transaction, and what goes wrong in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import timedelta

import pytest
from dtm_bank import Bank

import troth
import troth.dtm
from fixtures_coordinator import until
from troth.client.modes.dtm import Options

pytestmark = pytest.mark.engines

TO_A, TO_B = {"account": "A", "amount": 30}, {"account": "B", "amount": 30}
SOON = Options(retry_interval=timedelta(seconds=1))


def transfer(client: troth.dtm.DtmClient, bank: Bank, **options: object) -> troth.dtm.Saga:
    saga = client.saga(**options)
    saga.add(bank.url_of("/out"), bank.url_of("/out-undo"), TO_A)
    saga.add(bank.url_of("/in"), bank.url_of("/in-undo"), TO_B)
    return saga


# ---- saga ----


def test_a_saga_is_done_when_submit_returns(client: troth.dtm.DtmClient, bank: Bank) -> None:
    saga = transfer(client, bank)
    saga.submit(wait=True)
    assert bank.balances() == (70, 130, 0)
    assert bank.paths(saga.gid) == ["/out", "/in"]
    found = client.query(saga.gid)
    assert found["transaction"]["status"] == "succeed"
    assert [row["status"] for row in found["branches"] if row["op"] == "action"] == ["succeed", "succeed"]


def test_a_saga_that_is_refused_is_undone(client: troth.dtm.DtmClient, bank: Bank) -> None:
    bank.faults["/in"] = [troth.dtm.BranchRefused("B is closed")]
    saga = transfer(client, bank)
    with pytest.raises(troth.TransactionRolledBack, match="B is closed"):
        saga.submit(wait=True)
    until(lambda: client.query(saga.gid)["transaction"]["status"] == "failed", what="it is rolled back")
    assert bank.balances() == (100, 100, 0)
    assert bank.paths(saga.gid) == ["/out", "/in", "/in-undo", "/out-undo"]


def test_a_saga_that_is_not_done_yet_says_so_and_goes_on(client: troth.dtm.DtmClient, bank: Bank) -> None:
    bank.faults["/in"] = [troth.dtm.Ongoing("wait a little")]
    saga = transfer(client, bank, options=SOON)
    with pytest.raises(troth.dtm.Ongoing):
        saga.submit(wait=True)
    until(lambda: client.query(saga.gid)["transaction"]["status"] == "succeed", within_s=20)
    assert bank.balances() == (70, 130, 0)


def test_a_branch_whose_answer_is_lost_is_done_once(client: troth.dtm.DtmClient, bank: Bank) -> None:
    bank.after["/out"] = [ConnectionError("the answer is lost")]
    saga = transfer(client, bank, options=SOON)
    saga.submit()
    until(lambda: client.query(saga.gid)["transaction"]["status"] == "succeed", within_s=20)
    assert bank.balances() == (70, 130, 0)
    assert bank.paths(saga.gid) == ["/out", "/out", "/in"]


def test_a_saga_may_be_submitted_twice(client: troth.dtm.DtmClient, bank: Bank) -> None:
    saga = transfer(client, bank)
    saga.submit(wait=True)
    saga.submit()  # after a lost answer, say: it has ended, and nothing runs a second time
    assert bank.paths(saga.gid) == ["/out", "/in"]
    assert bank.balances() == (70, 130, 0)


def test_steps_of_a_concurrent_saga_wait_for_those_they_name(client: troth.dtm.DtmClient, bank: Bank) -> None:
    saga = client.saga(concurrent=True)
    last = saga.add(bank.url_of("/in"), bank.url_of("/in-undo"), TO_A)
    saga.add(bank.url_of("/in"), bank.url_of("/in-undo"), TO_B)
    saga.add(bank.url_of("/out"), bank.url_of("/out-undo"), {"account": "A", "amount": 130}, after=[last])
    saga.submit(wait=True)
    assert bank.balances() == (0, 130, 0)


def test_branches_get_the_headers_that_were_asked_for(client: troth.dtm.DtmClient, bank: Bank) -> None:
    transfer(client, bank, options=Options(branch_headers={"x-tenant": "blue"})).submit(wait=True)
    assert {headers.get("HTTP_X_TENANT") for headers in bank.headers} == {"blue"}


# ---- TCC ----


def try_(tcc: troth.dtm.Tcc, bank: Bank, payload: object) -> object:
    urls = {verb: bank.url_of(f"/{verb}") for verb in ("confirm", "cancel")}
    return tcc.call(bank.url_of("/try"), **urls, payload=payload)


def test_a_tcc_is_confirmed_at_the_end_of_its_block(client: troth.dtm.DtmClient, bank: Bank) -> None:
    with client.tcc(wait=True) as tcc:
        assert try_(tcc, bank, TO_A) == {"done": "/try"}
        assert try_(tcc, bank, TO_B) == {"done": "/try"}
        assert bank.balances() == (70, 70, 60)
    until(lambda: bank.balances() == (70, 70, 0))
    assert client.query(tcc.gid)["transaction"]["status"] == "succeed"


def test_a_tcc_whose_try_is_refused_is_cancelled(client: troth.dtm.DtmClient, bank: Bank) -> None:
    tcc = client.tcc()
    with pytest.raises(troth.dtm.BranchRefused, match="not enough"), tcc:
        _ = [try_(tcc, bank, payload) for payload in (TO_A, {"account": "B", "amount": 1000})]
    until(lambda: client.query(tcc.gid)["transaction"]["status"] == "failed", within_s=20)
    assert bank.balances() == (100, 100, 0)
    assert bank.paths(tcc.gid) == ["/try", "/try", "/cancel", "/cancel"]


def test_a_try_that_comes_after_its_cancel_is_refused_loudly(client: troth.dtm.DtmClient, bank: Bank) -> None:
    """Its caller has given up, and the try was still on its way."""
    bank.faults["/try"] = [ConnectionError("still on its way")]
    with pytest.raises(troth.dtm.BranchUnanswered), client.tcc() as tcc:
        try_(tcc, bank, TO_A)
    until(lambda: client.query(tcc.gid)["transaction"]["status"] == "failed", within_s=20)
    late = troth.dtm.Barrier(tcc.gid, "01", "try", "tcc")
    with pytest.raises(troth.dtm.LateTry):
        late.call(bank.connect, lambda connection: bank.add(connection, "A", -30, 30))
    assert bank.balances() == (100, 100, 0)


def test_a_try_may_call_branches_of_its_own(client: troth.dtm.DtmClient, bank: Bank) -> None:
    with client.tcc(wait=True) as tcc:

        def nested() -> None:
            query = {"gid": tcc.gid, "branch_id": "01", "op": "try", "trans_type": "tcc"}
            try_(client.join_tcc(query), bank, TO_B)

        bank.hooks["/try"] = nested
        try_(tcc, bank, TO_A)
    until(lambda: bank.balances() == (70, 70, 0))
    assert {branch for _, path, branch in bank.calls if path == "/confirm"} == {"01", "0101"}


# ---- messages ----


def message(client: troth.dtm.DtmClient, bank: Bank, **options: object) -> troth.dtm.Message:
    return client.message(**options).add(bank.url_of("/in"), TO_B)


def take(bank: Bank) -> Callable[[object], object]:
    return lambda connection: bank.add(connection, "A", -30)


def test_a_message_goes_out_with_its_local_transaction(client: troth.dtm.DtmClient, bank: Bank) -> None:
    sent = message(client, bank)
    assert sent.do(bank.url_of("/check-back"), bank.connect, take(bank)) is None
    until(lambda: bank.balances() == (70, 130, 0))


def test_a_message_whose_local_transaction_fails_is_dropped(client: troth.dtm.DtmClient, bank: Bank) -> None:
    def fails(connection: object) -> None:
        bank.add(connection, "A", -30)
        raise KeyError("after the update")

    sent = message(client, bank)
    with pytest.raises(KeyError):
        sent.do(bank.url_of("/check-back"), bank.connect, fails)
    assert client.query(sent.gid)["transaction"]["status"] == "failed"
    assert bank.balances() == (100, 100, 0)


@pytest.mark.parametrize("committed", [True, False])
def test_a_sender_that_died_is_asked_back(client: troth.dtm.DtmClient, bank: Bank, committed: bool) -> None:
    options = Options(timeout=timedelta(seconds=1), retry_interval=timedelta(seconds=1))
    sent = message(client, bank, options=options)
    sent.prepare(bank.url_of("/check-back"))
    if committed:
        troth.dtm.message_barrier(sent.gid).call(bank.connect, take(bank))
    ended = "succeed" if committed else "failed"
    until(lambda: client.query(sent.gid)["transaction"]["status"] == ended, within_s=25)
    assert bank.balances() == ((70, 130, 0) if committed else (100, 100, 0))
    if not committed:
        with pytest.raises(troth.dtm.LateTry):
            troth.dtm.message_barrier(sent.gid).call(bank.connect, take(bank))


def test_a_message_done_by_a_process_that_died_is_submitted_by_the_next(
    client: troth.dtm.DtmClient, bank: Bank
) -> None:
    sent = message(client, bank)
    sent.prepare(bank.url_of("/check-back"))
    troth.dtm.message_barrier(sent.gid).call(bank.connect, take(bank))
    again = message(client, bank, gid=sent.gid)
    assert again.do(bank.url_of("/check-back"), bank.connect, take(bank)) is None
    until(lambda: bank.balances() == (70, 130, 0))


# ---- workflows ----


def test_a_workflow_runs_and_its_result_is_kept(client: troth.dtm.DtmClient, bank: Bank) -> None:
    @client.workflow("transfer", callback=bank.url_of("/workflow"))
    def run(steps: troth.dtm.Steps, data: dict) -> dict:
        steps.call(bank.url_of("/out"), {"amount": data["amount"]}, rollback=bank.url_of("/out-undo"))
        return {"moved": steps.do(lambda: data["amount"])}

    gid = troth.dtm.new_gid()
    assert run.execute({"amount": 10}, gid=gid) == {"moved": 10}
    assert run.execute({"amount": 10}, gid=gid) == {"moved": 10}
    assert bank.paths(gid) == ["/out"]
    assert bank.balances() == (90, 100, 0)


def test_a_workflow_that_is_refused_is_rolled_back_in_reverse(client: troth.dtm.DtmClient, bank: Bank) -> None:
    undone: list[str] = []

    @client.workflow("refused", callback=bank.url_of("/workflow"))
    def run(steps: troth.dtm.Steps, data: object) -> None:
        steps.call(bank.url_of("/out"), TO_A, rollback=bank.url_of("/out-undo"))
        steps.do(lambda: "noted", rollback=lambda: undone.append("note"))
        steps.call(bank.url_of("/out"), {"account": "B", "amount": 1000}, rollback=bank.url_of("/out-undo"))

    gid = troth.dtm.new_gid()
    with pytest.raises(troth.TransactionRolledBack, match="not enough"):
        run.execute(gid=gid)
    with pytest.raises(troth.TransactionRolledBack, match="not enough"):
        run.execute(gid=gid)
    assert bank.balances() == (100, 100, 0)
    assert undone == ["note"]
    assert [(path, branch) for _, path, branch in bank.calls] == [
        ("/out", "01"),
        ("/out", "03"),
        ("/out-undo", "03"),
        ("/out-undo", "01"),
    ]


def test_a_call_back_while_the_code_takes_its_time_is_put_off(client: troth.dtm.DtmClient, bank: Bank) -> None:
    seen: list[Exception] = []

    @client.workflow("slow", callback=bank.url_of("/workflow"))
    def run(steps: troth.dtm.Steps, data: object) -> None:
        called_back = {"gid": steps.gid, "op": "slow", "branch_id": "00", "trans_type": "workflow"}
        try:
            client.resume(called_back, b"")
        except troth.dtm.Ongoing as put_off:
            seen.append(put_off)
        steps.call(bank.url_of("/out"), TO_A)

    gid = troth.dtm.new_gid()
    run.execute(gid=gid)
    assert len(seen) == 1
    assert bank.paths(gid) == ["/out"]


def test_a_rollback_that_is_refused_is_asked_again(client: troth.dtm.DtmClient, bank: Bank) -> None:
    """It is decided by then: no refusal ends it."""

    @client.workflow("stubborn", callback=bank.url_of("/workflow"))
    def run(steps: troth.dtm.Steps, data: object) -> None:
        steps.call(bank.url_of("/out"), TO_A, rollback=bank.url_of("/out-undo"))
        raise troth.dtm.BranchRefused("not after all")

    bank.faults["/out-undo"] = [troth.dtm.BranchRefused("I do not give it back")]
    gid = troth.dtm.new_gid()
    with pytest.raises(troth.dtm.BranchUnanswered, match="is decided"):
        run.execute(gid=gid)
    assert client.query(gid)["transaction"]["status"] == "prepared"
    with pytest.raises(troth.TransactionRolledBack, match="not after all"):
        run.execute(gid=gid)  # as the coordinator's call-back does
    assert bank.balances() == (100, 100, 0)


def test_a_workflow_that_died_is_resumed_by_the_coordinators_call_back(client: troth.dtm.DtmClient, bank: Bank) -> None:
    from troth.integrations.dtm_wsgi import DtmMiddleware

    bank.app = DtmMiddleware(bank.serve, workflows={"/workflow": client})
    done: list[str] = []

    @client.workflow("resumed", callback=bank.url_of("/workflow"), options=SOON)
    def run(steps: troth.dtm.Steps, data: object) -> str:
        done.append(steps.do(lambda: len(done)))
        steps.call(bank.url_of("/out"), TO_A)
        return "at last"

    bank.faults["/out"] = [ConnectionError("the process dies here")]
    gid = troth.dtm.new_gid()
    with pytest.raises(troth.dtm.BranchUnanswered):
        run.execute({"a": 1}, gid=gid)
    until(lambda: client.query(gid)["transaction"]["status"] == "succeed", within_s=30)

    def returned() -> object:
        with suppress(troth.dtm.Ongoing):  # the call-back has told the coordinator, and is about to return
            return run.execute(gid=gid)
        return None

    assert until(returned) == "at last"
    assert done[:2] == [0, 0]  # the second run was given what the first had kept
    assert bank.balances() == (70, 100, 0)


# ---- async ----


async def test_async_clients_do_the_same(dtm_server: str, bank: Bank) -> None:
    import aiosqlite

    async with troth.dtm.connect_async(dtm_server) as client:
        await transfer(client, bank).submit(wait=True)
        assert bank.balances() == (70, 130, 0)
        async with client.tcc(wait=True) as tcc:
            await try_(tcc, bank, TO_A)
        until(lambda: bank.balances() == (40, 130, 0))

        async def work(connection: aiosqlite.Connection) -> None:
            await connection.execute("UPDATE account SET balance = balance - 30 WHERE id = 'A'")

        await message(client, bank).do(bank.url_of("/check-back"), lambda: aiosqlite.connect(bank.path), work)
        until(lambda: bank.balances() == (10, 160, 0))

        @client.workflow("async", callback=bank.url_of("/workflow"))
        async def run(steps: troth.dtm.Steps, data: int) -> int:
            await steps.call(bank.url_of("/out"), {"account": "A", "amount": data})

            async def doubled(number: int) -> int:
                return number * 2

            both = await asyncio.gather(steps.do(lambda: doubled(data)), steps.do(lambda: doubled(0)))
            return sum(both)

        assert await run.execute(5) == 10
        assert bank.balances() == (5, 160, 0)
        with pytest.raises(TypeError, match="async with"), client.tcc():
            pass


# ---- what is refused ----


def test_nobody_at_the_other_end_is_told_as_that(bank: Bank) -> None:
    with closing(troth.dtm.connect("http://127.0.0.1:9")) as client:
        with pytest.raises(troth.OutcomeUnknown):
            transfer(client, bank).submit()
        with pytest.raises(troth.CoordinatorUnavailable):
            message(client, bank).do(bank.url_of("/check-back"), bank.connect, take(bank))
    assert bank.balances() == (100, 100, 0)
