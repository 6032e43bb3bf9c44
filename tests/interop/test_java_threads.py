"""Many threads of one JVM: merged requests in both directions, waits that hold back nobody, a restart in between."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
from java_app import JavaError
from shop import DEDUCT, Shop, run, sql
from wiretap import Seen, Wiretap

from fixtures_coordinator import CoordinatorProcess, until
from troth.wire.seata import messages as m

pytestmark = pytest.mark.engines

THREADS = 24
PURCHASES_EACH = 6
START = 100
TOGETHER, ROUNDS = 8, 30
LATER_S = 0.02
"""So much later an answer cannot have come out of the same batch."""


def merged_frames(seen: list[Seen]) -> dict[tuple[int, int], list[float]]:
    """For each merged request with more than one child: when its answers came."""
    answers: dict[tuple[int, int], list[float]] = defaultdict(list)
    for one in seen:
        if isinstance(one.body, m.MergedWarpMessage) and len(one.body.msgs) > 1:
            answers[one.line, one.frame.request_id] = []
        elif isinstance(one.body, m.BatchResultMessage) and (one.line, one.frame.request_id) in answers:
            answers[one.line, one.frame.request_id].append(one.at_s)
    return answers


def test_threads_that_meet_at_the_same_rows_all_hear_their_own_answers(mariadb_shop: Shop, wiretap: Wiretap) -> None:
    """Two rows are hot: who wants one waits for its holder, beside merged siblings that want rows of their own."""
    shop, chance = mariadb_shop, random.Random(4)
    since = len(wiretap.seen)
    posted = []
    for thread in range(THREADS):
        for _ in range(PURCHASES_EACH):
            hot = thread < THREADS // 3
            account = chance.choice([1, 2]) if hot else 3 + thread
            steps = [sql(shop, [DEDUCT, 1, account]), {"op": "sleep", "ms": 20 if hot else 2}]
            posted.append((account, shop.java.post("global", thread=f"t{thread}", steps=steps)))
    bought: dict[int, int] = defaultdict(int)
    for account, pending in posted:
        refused = pending.exception(60)
        if refused is None:
            bought[account] += 1
        else:
            assert isinstance(refused, JavaError)
            assert refused.code == "RollbackDone", refused
            assert {"LockWaitTimeoutException", "LockConflictException"} & set(refused.classes), refused
    balances = {int(row[0]): int(row[1]) for row in shop.read("SELECT id, balance FROM account")}
    assert balances == {account: START - bought[account] for account in balances}
    assert all(bought[3 + thread] == PURCHASES_EACH for thread in range(THREADS // 3, THREADS)), "nobody met these"
    assert not wiretap.bodies(m.MergeResultMessage)
    frames = merged_frames(wiretap.seen[since:])
    assert frames, "some requests did travel together"
    until(lambda: shop.undo_logs() == 0)


def test_a_waiting_thread_holds_back_no_other(mariadb_shop: Shop, wiretap: Wiretap) -> None:
    """Threads that register at the same moment, one of them for a row that is taken, until it has shared a frame."""
    shop = mariadb_shop
    for _ in range(ROUNDS):
        since = len(wiretap.seen)
        xids = [shop.java.call("begin") for _ in range(TOGETHER + 1)]
        run(shop, xids[0], [DEDUCT, 1, 30])
        posted = [
            shop.java.post(thread=f"t{n}", xid=xid, **sql(shop, [DEDUCT, 1, 29 + n], meet=TOGETHER))  # type: ignore[arg-type]
            for n, xid in enumerate(xids)
            if n > 0
        ]
        waits, *others = posted
        assert [other.result(20) for other in others] == [[1]] * len(others)
        assert not waits.done()
        assert shop.java.call("commit", xid=xids[0]) == "Committed"
        assert waits.result(20) == [1]
        for xid in xids[1:]:
            assert shop.java.call("rollback", xid=xid) == "Rollbacked"
        frames = merged_frames(wiretap.seen[since:])
        if any(len(times) > 1 and times[-1] - times[0] > LATER_S for times in frames.values()):
            return
    raise AssertionError(f"the waiting thread never shared a frame in {ROUNDS} rounds")


def test_a_restarted_coordinator_finds_its_clients_again(mariadb_shop: Shop, coordinator: CoordinatorProcess) -> None:
    shop = mariadb_shop
    before = shop.balance(37)
    kept, dropped = shop.java.call("begin"), shop.java.call("begin")
    run(shop, kept, [DEDUCT, 1, 37])
    run(shop, dropped, [DEDUCT, 1, 36])
    coordinator.kill()
    coordinator.start()
    assert shop.java.call("status", xid=kept) == "Begin"
    assert shop.java.call("commit", xid=kept) == "Committed"
    rolled = shop.java.call("rollback", xid=dropped)
    assert rolled in ("Rollbacked", "Rollbacking", "RollbackRetrying"), rolled
    run(shop, shop.java.call("begin"), [DEDUCT, 1, 35])  # the RM comes back with its next request
    until(lambda: shop.java.call("status", xid=dropped) == "Rollbacked", within_s=30)
    until(lambda: shop.java.call("status", xid=kept) == "Committed", within_s=30)
    assert (shop.balance(37), shop.balance(36)) == (before - 1, 100)
    until(lambda: shop.undo_logs() == 1)  # of the one that is still open
