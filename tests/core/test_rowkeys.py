from __future__ import annotations

import pytest

from troth.core.model import RowKey
from troth.core.retry import Backoff
from troth.core.rowkeys import LockTextError, parse_lock_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, []),
        ("", []),
        ("stock_tbl:1", [("stock_tbl", "1")]),
        ("kinds:2;pair:2_x;word:new", [("kinds", "2"), ("pair", "2_x"), ("word", "new")]),
        ("word:plain,with:colon,with_under", [("word", "plain"), ("word", "with:colon"), ("word", "with_under")]),
        ("account:1;stock:apple;", [("account", "1"), ("stock", "apple")]),
        ("t:1,1;t:1", [("t", "1")]),
        ("账户:数", [("账户", "数")]),
    ],
)
def test_lock_texts_of_java_and_go(text: str | None, expected: list[tuple[str, str]]) -> None:
    assert parse_lock_text("r", text) == tuple(RowKey("r", *pair) for pair in expected)


@pytest.mark.parametrize("text", ["t", ":1", "t:", "t:1;;u:2", "t:1,", "t:,1", ";", "t:1;u", "t:1;;"])
def test_a_text_that_does_not_split_cleanly_is_refused(text: str) -> None:
    with pytest.raises(LockTextError):
        parse_lock_text("r", text)


def test_backoff_never_leaves_its_bounds() -> None:
    backoff = Backoff(min_ms=100, max_ms=1_000)
    for attempt in (0, 1, 2, 3, 4, 5, 1_000_000):
        for spread in range(40):
            assert 75 <= backoff.delay_ms(attempt, spread) <= 1_000
    assert [backoff.delay_ms(n) for n in (1, 2, 3, 4, 5)] == [100, 200, 400, 800, 1_000]
