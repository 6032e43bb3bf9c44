from __future__ import annotations

import pytest

from troth.integrations.joining import ConflictingXids, agreed_xid, is_failure


@pytest.mark.parametrize(
    ("values", "xid"),
    [
        ([], None),
        ([""], None),
        (["  "], None),
        (["a:1:2"], "a:1:2"),
        ([" a:1:2 "], "a:1:2"),
        (["a:1:2", "a:1:2"], "a:1:2"),
        (["a:1:2,a:1:2"], "a:1:2"),
        (["a:1:2, ,"], "a:1:2"),
    ],
)
def test_the_xid_of_a_request(values: list[str], xid: str | None) -> None:
    assert agreed_xid(values) == xid


@pytest.mark.parametrize("values", [["a:1:2", "a:1:3"], ["a:1:2,a:1:3"]])
def test_two_xids_are_refused(values: list[str]) -> None:
    with pytest.raises(ConflictingXids, match="a:1:2, a:1:3"):
        agreed_xid(values)


@pytest.mark.parametrize(("status", "failure"), [(200, False), (302, False), (404, False), (499, False), (500, True)])
def test_what_a_failure_is(status: int, failure: bool) -> None:
    assert is_failure(status) is failure
