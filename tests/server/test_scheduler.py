"""One due time per xid, against a plain dictionary."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from troth.server.ids import SEATA_EPOCH_MS, IdGenerator
from troth.server.scheduler import Scheduler

MOVES = st.lists(st.tuples(st.sampled_from("abcdef"), st.none() | st.integers(0, 200), st.booleans()), max_size=40)


@given(MOVES)
def test_nothing_is_early_nothing_is_forgotten(moves: list[tuple[str, int | None, bool]]) -> None:
    scheduler, plain, now = Scheduler(slot_ms=10), dict[str, int](), 0
    for xid, due, look in moves:
        scheduler.set(xid, due)
        plain.pop(xid, None)
        if due is not None:
            plain[xid] = due
        if look:
            now += 25
            taken = scheduler.take_due(now)
            assert len(taken) == len(set(taken))
            assert all(plain.pop(name) <= now for name in taken)
            assert all(due > now - 10 for due in plain.values())
        next_ms = scheduler.next_ms()
        assert len(scheduler) == len(plain)
        assert next_ms == (min(-(-due // 10) * 10 for due in plain.values()) if plain else None)


class StoppedClock:
    def __init__(self, now: int) -> None:
        self._now = now

    def now_ms(self) -> int:
        return self._now


def test_ids_go_up_even_when_the_clock_has_gone_back() -> None:
    first = IdGenerator(StoppedClock(SEATA_EPOCH_MS + 1_000_000), node=5)
    given_out = [first.next() for _ in range(10_000)]
    assert given_out == sorted(set(given_out))
    assert all(0 < number < 2**63 and number >> 53 == 5 for number in given_out)
    second = IdGenerator(StoppedClock(SEATA_EPOCH_MS + 1_000), node=5)
    second.skip_past(given_out[-1])
    assert second.next() > given_out[-1]
