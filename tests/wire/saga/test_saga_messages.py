"""The messages about sagas: what was written is what is read; cut bytes are refused; records come in pages."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import fields as fields_of

from troth.wire.seata import messages as m
from troth.wire.seata import saga
from troth.wire.seata.bodies import LAYOUTS, read_body, write_body
from troth.wire.seata.enums import BranchType, ResultCode, TransactionExceptionCode
from troth.wire.seata.errors import WireError

KINDS = [layout.message for layout in saga.SAGA_LAYOUTS]
LONG = {"branch_id"}
texts = st.none() | st.text(min_size=1, max_size=60)
BY_TYPE = {
    str | None: texts,
    bool: st.booleans(),
    BranchType: st.sampled_from(BranchType),
    TransactionExceptionCode: st.sampled_from(TransactionExceptionCode),
}


def some(kind: type[m.Message]) -> st.SearchStrategy[m.Message]:
    """Any message of `kind`. A text beside Success does not travel (PROTOCOL §3)."""
    values = {}
    for field in fields_of(kind):
        if field.type is int:
            bits = 64 if field.name in LONG else 32
            values[field.name] = st.integers(-(1 << bits - 1), (1 << bits - 1) - 1)
        else:
            values[field.name] = st.just(ResultCode.Failed) if field.name == "result_code" else BY_TYPE[field.type]
    return st.builds(kind, **values)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS).flatmap(some))
def test_what_is_written_is_what_is_read(message: m.Message) -> None:
    body = write_body(message)
    assert read_body(body, 0, len(body)) == message


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS).flatmap(some), st.data())
def test_cut_bytes_are_refused(message: m.Message, data: st.DataObject) -> None:
    body = write_body(message)
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(WireError):
        read_body(body[:cut], 0, cut)


def test_they_are_none_of_seatas() -> None:
    codes = {int(kind.TYPE_CODE) for kind in KINDS}
    assert len(codes) == len(KINDS)
    assert codes.isdisjoint(LAYOUTS)


def test_the_agreement_bears_other_suffixes() -> None:
    assert saga.announces("troth=branch-inquiry\ntroth=saga\n")
    assert not saga.announces("troth=sagas\n")
    assert not saga.announces(None)
    for version, known in [
        ("2.3.0", False),
        ("2.3.0+saga", True),
        ("2.3.0+saga+lock-wait", True),
        ("2.3.0+sagax", False),
    ]:
        assert saga.agrees(version) is known
    assert not saga.agrees(None)


def test_records_come_in_pages_that_an_answer_can_hold() -> None:
    large = tuple((f"step {number}", "x" * (saga.LARGEST_RECORDS_BYTES // 3), False) for number in range(7))
    pages, have = [], 0
    while have < len(large):
        page = saga.records_in(saga.records_text(large, have))
        pages.append(len(page))
        assert [tuple(one) for one in page] == list(large[have : have + len(page)])
        have += len(page)
    assert pages == [2, 2, 2, 1]
    assert saga.records_in(saga.records_text(large, len(large))) == []
    huge = (("one", "x" * (2 * saga.LARGEST_RECORDS_BYTES), True),)
    assert len(saga.records_in(saga.records_text(huge, 0))) == 1, "one that is larger goes alone, not never"
