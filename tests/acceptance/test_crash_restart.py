"""SIGKILL at random moments under load, over and over on one store: whatever was answered is kept."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from fixtures_coordinator import CoordinatorProcess, WireClient, until
from troth.wire.seata import messages as m
from troth.wire.seata.enums import BranchType, GlobalStatus, ResultCode

pytestmark = pytest.mark.engines

RESOURCE = "jdbc:mysql://db/crash"
ROUNDS = 4
CLIENTS = 3
COMMITTED = {GlobalStatus.AsyncCommitting, GlobalStatus.CommitRetrying, GlobalStatus.Committed}
ROLLED_BACK = {GlobalStatus.Rollbacking, GlobalStatus.RollbackRetrying, GlobalStatus.Rollbacked}
UNDECIDED = {GlobalStatus.Begin}


@dataclass
class Fact:
    """What a client knows of one transaction: answers that it has had, and what it has asked last."""

    xid: str
    branches: dict[int, str] = field(default_factory=dict)
    asked: GlobalStatus | None = None
    answer: GlobalStatus | None = None

    def may_stand(self) -> set[GlobalStatus]:
        """The states that contradict no answer. What was asked and not answered may have happened or not."""
        if self.answer is GlobalStatus.Committed:
            return COMMITTED
        if self.answer is GlobalStatus.Rollbacked:
            return {GlobalStatus.Rollbacked}
        if self.answer is not None:
            return ROLLED_BACK
        if self.asked is GlobalStatus.Committed:
            return UNDECIDED | COMMITTED
        return UNDECIDED | ROLLED_BACK if self.asked else UNDECIDED


class Load:
    """One client: begins, locks rows, commits, rolls back or leaves it; answers only some of phase two."""

    def __init__(self, port: int, chance: random.Random, prefix: str) -> None:
        self.facts: list[Fact] = []
        self.told: list[tuple[int, type]] = []
        self.done: set[int] = set()
        self.answers = 0
        self.failure: BaseException | None = None
        self._chance = chance
        self._prefix = prefix
        self._client = WireClient(port).register_tm().register_rm(RESOURCE)
        self.thread = threading.Thread(target=self._run, name=prefix)

    def _run(self) -> None:
        try:
            while True:
                self._one(len(self.facts))
        except ConnectionError:
            pass  # the coordinator is dead
        except BaseException as error:  # noqa: BLE001 - the test's own thread reports it
            self.failure = error
        finally:
            self._client.close()

    def _one(self, number: int) -> None:
        client = self._client
        fact = Fact(client.begin())
        self.facts.append(fact)
        for part in range(self._chance.randint(0, 2)):
            row = f"{self._prefix}-{number}-{part}"
            registered = client.branch(fact.xid, RESOURCE, f"t:{row}")
            assert registered.result_code is ResultCode.Success, registered
            fact.branches[registered.branch_id] = row
        how = self._chance.random()
        if how < 0.5:
            fact.asked = GlobalStatus.Committed
            fact.answer = client.commit(fact.xid)
        elif how < 0.6:
            fact.asked = GlobalStatus.Rollbacked
            if fact.branches:
                client.post(m.GlobalRollbackRequest(fact.xid))  # answered after phase two: by then we are elsewhere
            else:
                fact.answer = client.rollback(fact.xid)
        self._serve(how < 0.3)
        self.answers += 1

    def _serve(self, answer: bool) -> None:
        for frame in self._client.requests:
            self.told.append((frame.body.branch_id, type(frame.body)))
            if answer:
                self.done.add(frame.body.branch_id)
                self._client.answer_branch(frame)
        self._client.requests.clear()


def test_whatever_was_answered_survives_kills(new_coordinator: Callable[..., CoordinatorProcess]) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    coordinator = new_coordinator("lock.hot_wait=50ms").start()
    facts: list[Fact] = []
    told: list[tuple[int, type]] = []
    done: set[int] = set()
    for number in range(ROUNDS):
        loads = [Load(coordinator.port, random.Random(chance.random()), f"{number}.{n}") for n in range(CLIENTS)]
        run_until_killed(coordinator, loads, at_least=chance.randint(20, 200))
        facts += [fact for load in loads for fact in load.facts]
        told += [one for load in loads for one in load.told]
        done |= {branch for load in loads for branch in load.done}
        coordinator.start()
        check_answers(coordinator, facts, done)
    finish(coordinator, facts, told)
    ids = [int(fact.xid.rpartition(":")[2]) for fact in facts] + [branch for fact in facts for branch in fact.branches]
    assert len(ids) == len(set(ids)), "an id was given out twice"


def run_until_killed(coordinator: CoordinatorProcess, loads: list[Load], at_least: int) -> None:
    for load in loads:
        load.thread.start()
    until(lambda: sum(load.answers for load in loads) >= at_least or any(load.failure for load in loads), 30)
    coordinator.kill()
    for load in loads:
        load.thread.join(20)
        assert not load.thread.is_alive()
        assert load.failure is None, load.failure


def check_answers(coordinator: CoordinatorProcess, facts: list[Fact], done: set[int]) -> None:
    """No resource is registered here, so nothing moves while we look. A row of a branch in `done` may be free."""
    with WireClient(coordinator.port).register_tm() as client:
        for fact in facts:
            stands = client.status(fact.xid)
            assert stands in fact.may_stand(), (fact, stands)
            if fact.answer is GlobalStatus.Committed:
                assert client.commit(fact.xid) is GlobalStatus.Committed, "a repeated commit hears the same"
            free = stands in COMMITTED or stands is GlobalStatus.Rollbacked
            for branch_id, row in fact.branches.items():
                query = m.GlobalLockQueryRequest("nobody:1:1", BranchType.AT, RESOURCE, f"t:{row}")
                lockable = client.ask(query).lockable
                assert lockable is free or branch_id in done, (fact, stands)


def finish(coordinator: CoordinatorProcess, facts: list[Fact], told: list[tuple[int, type]]) -> None:
    """End what is open; every branch must hear the verb that fits, also what was decided several lives ago."""
    with WireClient(coordinator.port).register_tm() as tm, WireClient(coordinator.port).register_rm(RESOURCE) as rm:
        # not only the known ones: a begin may have become durable whose answer was never sent
        for shown in coordinator.get("/api/transactions?status=Begin&limit=1000")[1]["transactions"]:
            tm.post(m.GlobalRollbackRequest(shown["xid"]))
        until(lambda: answer_what_comes(rm, told) or not coordinator.metrics()["troth_transactions_open"], 20)
        assert coordinator.metrics()["troth_locks_held"] == 0
        heard: dict[int, set[type]] = {}
        for branch_id, kind in told:
            heard.setdefault(branch_id, set()).add(kind)
        for fact in facts:
            committed = tm.status(fact.xid) is GlobalStatus.Committed
            verb = m.BranchCommitRequest if committed else m.BranchRollbackRequest
            for branch_id in fact.branches:
                assert heard.get(branch_id) == {verb}


def answer_what_comes(rm: WireClient, told: list[tuple[int, type]]) -> None:
    with contextlib.suppress(TimeoutError):
        while True:
            frame = rm.next_request(within_s=0.1)
            told.append((frame.body.branch_id, type(frame.body)))
            rm.answer_branch(frame)
