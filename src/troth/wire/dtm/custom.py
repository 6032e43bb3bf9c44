"""What the types of transactions put into `custom_data`: orders of a saga, the delay of a message, a workflow's run."""

from __future__ import annotations

import binascii
from typing import TypeVar

import msgspec

from troth.wire.dtm.messages import MSG, SAGA, WORKFLOW, Trans
from troth.wire.dtm.results import BadInput

LONGEST_SECONDS = 10 * 365 * 86_400

T = TypeVar("T")


class _Delay(msgspec.Struct):
    delay: int | None = None


class _Orders(msgspec.Struct):
    concurrent: bool | None = None
    orders: dict[int, list[int]] | None = None


class _Run(msgspec.Struct):
    name: str | None = None
    data: str | None = None


def orders_of(trans: Trans, count: int) -> list[tuple[int, ...]]:
    """For each of a saga's steps, from 0, those that must be done before it. Raises BadInput.

    One after the other, unless it is concurrent: then as `orders` says, and all at once where that says nothing.
    """
    custom = _decode(trans.custom_data, _ORDERS, _Orders()) if trans.trans_type == SAGA else _Orders()
    if not (custom.concurrent or trans.concurrent):
        return [(index - 1,) if index else () for index in range(count)]
    orders = custom.orders or {}
    before = [tuple(dict.fromkeys(orders.get(index) or ())) for index in range(count)]
    named = {*orders, *(number for numbers in before for number in numbers)}
    if any(not 0 <= number < count for number in named):
        raise BadInput(f"custom_data: orders name a step that is not there: there are {count}, from 0")
    _refuse_ring(before)
    return before


def delay_s_of(trans: Trans) -> int:
    """How many seconds after its beginning a message is delivered. Raises BadInput."""
    if trans.trans_type != MSG:
        return 0
    delay_s = _decode(trans.custom_data, _DELAY, _Delay()).delay or 0
    if not 0 <= delay_s <= LONGEST_SECONDS:
        raise BadInput(f"custom_data: delay is a number of seconds, not {delay_s}")
    return delay_s


def workflow_run(trans: Trans) -> tuple[str, bytes]:
    """The name of a workflow, and the data that it is called back with. Raises BadInput."""
    run = _decode(trans.custom_data, _RUN, _Run())
    if not run.name:
        raise BadInput(f"custom_data of a {WORKFLOW} is {{name, data}}, and has a name")
    try:
        return run.name, binascii.a2b_base64(run.data or "", strict_mode=True)
    except binascii.Error as error:
        raise BadInput(f"custom_data: data is not base64: {error}") from None


def _decode(text: str | None, decoder: msgspec.json.Decoder[T], default: T) -> T:
    if not text:
        return default
    try:
        return decoder.decode(text)
    except msgspec.DecodeError as error:
        raise BadInput(f"custom_data: {error}") from None


def _refuse_ring(before: list[tuple[int, ...]]) -> None:
    """Steps that wait for each other would wait for ever."""
    left = {index: set(earlier) for index, earlier in enumerate(before)}
    while free := [index for index, earlier in left.items() if not earlier & left.keys()]:
        for index in free:
            del left[index]
    if left:
        raise BadInput(f"custom_data: orders go round in a ring: steps {', '.join(map(str, left))}")


_ORDERS = msgspec.json.Decoder(_Orders)
_DELAY = msgspec.json.Decoder(_Delay)
_RUN = msgspec.json.Decoder(_Run)
