"""A program that does every kind of global transaction once a round and writes down what it asks and hears.

Run by `test_crash_points.py`, under a crash point or beside a coordinator that has one. Each line of the log is one
JSON object: `begun` with what the transaction moves if it commits, `heard` with what the coordinator has answered.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

from crash_bank import Bank

import troth
from troth.client.client import Client
from troth.wire.seata.enums import BranchStatus, BranchType, ResultCode
from troth.wire.seata.messages import (
    BranchCommitRequest,
    BranchCommitResponse,
    BranchRegisterRequest,
    BranchRegisterResponse,
    BranchRollbackRequest,
    BranchRollbackResponse,
    GlobalBeginRequest,
    GlobalBeginResponse,
)

STEPS = (
    "commits",
    "rolls back",
    "votes",
    "fails to commit locally",
    "confirms",
    "cancels",
    "abandons",
    "commits again",
)
ABANDONED_MS = 1_000


class NotWanted(Exception):
    """The transaction is to be rolled back."""


class Log:
    """What this program knows, line by line in the order in which it knew it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def write(self, **line: object) -> None:
        print(json.dumps(line), file=self._file, flush=True)


class Reservations:
    """The phase two of a TCC service: idempotent, and a cancel that comes before its try fences it off."""

    def __init__(self, bank: Bank) -> None:
        self._bank = bank
        self._fails = True

    def commit(self, requests: list[BranchCommitRequest]) -> list[BranchCommitResponse]:
        if self._fails:  # once: the coordinator has to ask again
            self._fails = False
            raise OSError("the service is not ready to confirm")
        for request in requests:
            self._settle(request.xid, request.branch_id, "confirmed")
        done = BranchStatus.PhaseTwo_Committed
        return [BranchCommitResponse(xid=r.xid, branch_id=r.branch_id, branch_status=done) for r in requests]

    def rollback(self, request: BranchRollbackRequest) -> BranchRollbackResponse:
        if not self._settle(request.xid, request.branch_id, "cancelled"):
            fence = "INSERT INTO reservation VALUES (?, ?, 'fenced') ON CONFLICT DO NOTHING"
            self._bank.execute(fence, request.xid, request.branch_id)
        return BranchRollbackResponse(
            xid=request.xid, branch_id=request.branch_id, branch_status=BranchStatus.PhaseTwo_Rollbacked
        )

    def delete_undo_logs(self, save_days: int) -> None:
        """There are none."""

    def _settle(self, xid: str | None, branch_id: int, state: str) -> bool:
        update = "UPDATE reservation SET state = ? WHERE xid = ? AND branch_id = ? AND state = 'tried'"
        return self._bank.execute(update, state, xid, branch_id) == 1


class Worker:
    """Does the steps, each on an account of its own: what one leaves open does not stand in another's way."""

    def __init__(self, client: Client, banks: list[Bank], log: Log, timeout: timedelta) -> None:
        self._client = client
        self._banks = banks
        self._log = log
        self._timeout = timeout
        self._account = 0
        self._tcc = f"tcc-{banks[0].url}"
        client.register_resource(self._tcc, BranchType.TCC, Reservations(banks[0]))
        for bank in banks:
            with closing(troth.at.connect(bank.url)):
                pass  # phase two of what a predecessor has left is served from now on

    def run(self, step: str) -> None:
        """One transaction. Whatever the coordinator or its absence does to it, the program goes on."""
        self._account += 1
        match step:
            case "commits" | "commits again":
                self._owned(step, self._move)
            case "rolls back":
                self._owned(step, self._move, wanted=False)
            case "votes":
                self._owned(step, self._move_and_vote)
            case "fails to commit locally":
                self._owned(step, self._move_half)
            case "confirms":
                self._owned(step, self._reserve_and_move)
            case "cancels":
                self._owned(step, self._reserve_and_move, wanted=False)
            case _:
                self._abandon(step)

    def _owned(self, step: str, work: object, *, wanted: bool = True) -> None:
        self._log.write(event="step", step=step)
        outcome = "unknown"
        xid = None
        try:
            with troth.transaction(name=step, timeout=self._timeout) as tx:
                xid = tx.xid
                self._begun(step, xid)
                work(tx)  # type: ignore[operator]
                if not wanted:
                    raise NotWanted
            outcome = "committed"
        except (NotWanted, troth.TransactionRolledBack):
            outcome = "rolled back"
        except troth.OutcomeUnknown:
            pass
        except (
            troth.BranchFailed,
            troth.CoordinatorUnavailable,
            troth.LockConflict,
            troth.CoordinatorRefused,
            troth.VoteNotTaken,
        ) as error:
            outcome = "rolled back" if xid else f"never begun: {error}"
        self._log.write(event="heard", step=step, xid=xid, outcome=outcome)

    def _begun(self, step: str, xid: str) -> None:
        deltas = [[self._banks[0].url, self._account, -1], [self._banks[1].url, self._account, 1]]
        self._log.write(event="begun", step=step, xid=xid, deltas=deltas)

    def _change(self, bank: Bank, delta: int) -> None:
        with closing(troth.at.connect(bank.url)) as connection:
            update = bank.spelled("UPDATE account SET balance = balance + ? WHERE id = ?")
            connection.execute(update, (delta, self._account))
            connection.commit()

    def _move(self, _: troth.Transaction) -> None:
        self._change(self._banks[0], -1)
        self._change(self._banks[1], 1)

    def _move_and_vote(self, tx: troth.Transaction) -> None:
        self._move(tx)
        tx.rollback_only()

    def _move_half(self, _: troth.Transaction) -> None:
        self._change(self._banks[0], -1)
        with self._refusing(self._banks[1]):
            self._change(self._banks[1], 1)

    @contextmanager
    def _refusing(self, bank: Bank) -> Iterator[None]:
        bank.execute("INSERT INTO refusal VALUES ('a test')")
        try:
            yield
        finally:
            bank.execute("DELETE FROM refusal")

    def _reserve_and_move(self, tx: troth.Transaction) -> None:
        answer = self._client.tell(
            BranchRegisterRequest(tx.xid, BranchType.TCC, self._tcc, None, '{"actionContext":{}}')
        )
        if not isinstance(answer, BranchRegisterResponse) or answer.result_code is not ResultCode.Success:
            raise troth.BranchFailed(f"the TCC branch was refused: {answer}")
        self._banks[0].execute("INSERT INTO reservation VALUES (?, ?, 'tried')", tx.xid, answer.branch_id)
        self._move(tx)

    def _abandon(self, step: str) -> None:
        """Begin, work, and never say how it is to end."""
        self._log.write(event="step", step=step)
        try:
            answer = self._client.tell(GlobalBeginRequest(ABANDONED_MS, step))
            if not isinstance(answer, GlobalBeginResponse) or not answer.xid:
                raise troth.CoordinatorUnavailable(f"begin was answered with {answer}")
            self._begun(step, answer.xid)
            with troth.join(answer.xid):
                self._change(self._banks[0], -1)
                self._change(self._banks[1], 1)
        except (troth.BranchFailed, troth.CoordinatorUnavailable, troth.LockConflict) as error:
            self._log.write(event="trouble", step=step, error=str(error))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--coordinator", required=True)
    parser.add_argument("--bank", action="append", required=True, help="database URL; twice")
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--rounds", type=int, required=True, help="0: only serve phase two")
    parser.add_argument("--timeout-ms", type=int, required=True, help="of the transactions")
    chosen = parser.parse_args()
    client = troth.init(
        chosen.coordinator,
        application="crash-bank",
        connect_timeout_s=30.0,
        link_wait_s=20.0,
        reconnect_min_s=0.05,
        reconnect_max_s=0.2,
        tm_timeout_s=5.0,
        rm_timeout_s=5.0,
        begin_retry_timeout_s=30.0,
        commit_retry_timeout_s=30.0,
        rollback_retry_timeout_s=30.0,
    )
    banks = [Bank(url) for url in chosen.bank]
    worker = Worker(client, banks, Log(chosen.log), timedelta(milliseconds=chosen.timeout_ms))
    for _ in range(chosen.rounds):
        for step in STEPS:
            worker.run(step)
    print("done", flush=True)
    sys.stdin.read()  # phase two is served until the test has seen its end
    troth.close()


if __name__ == "__main__":
    main()
