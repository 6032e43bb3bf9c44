"""Bodies: the messages of `layouts`, and those that carry several of them in one frame (PROTOCOL §3, §6).

`LAYOUTS` is the one table from type code to message.
"""

from struct import Struct, error
from types import MappingProxyType
from typing import Final

from troth.wire.seata import messages as m
from troth.wire.seata.errors import Truncated, WireError
from troth.wire.seata.fields import pack_short, unpack_int, unpack_short
from troth.wire.seata.layouts import SINGLES, Layout, Reader
from troth.wire.seata.lock_wait import LOCK_LAYOUTS
from troth.wire.seata.private import PRIVATE_LAYOUTS
from troth.wire.seata.saga import SAGA_LAYOUTS

TYPE_CODE_BYTES: Final = 2

_pack_merged_head = Struct(">ih").pack


# --- the public functions ---------------------------------------------------------------------------------------------


def read_body(buf: bytes, pos: int, end: int) -> m.Message:
    """The message in `buf[pos:end]`, type code first (version 1). `WireError` unless it fits exactly."""
    if end - pos < TYPE_CODE_BYTES:
        raise Truncated("a body needs a type code", pos, pos + TYPE_CODE_BYTES)
    code = buf[pos] << 8 | buf[pos + 1]
    try:  # as `read_fields`, without the call: this is the way of nearly every message
        message, stop = _READERS[code](buf, pos + 2, end)
    except (IndexError, error):
        raise _unreadable(code, buf, pos + 2, end) from None
    if stop > end:
        raise _truncated(code, end, stop)
    if stop != end:
        raise WireError(f"{end - stop} bytes behind the end of {type(message).__name__}", stop)
    return message


def read_fields(code: int, buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
    """The message of type `code` at `pos` (no type code before it), and where it ends: at `end` or before."""
    try:
        message, stop = _READERS[code](buf, pos, end)
    except (IndexError, error):
        raise _unreadable(code, buf, pos, end) from None
    if stop > end:
        raise _truncated(code, end, stop)
    return message, stop


def write_body(message: m.Message) -> bytes:
    """Type code and fields (version 1). `WireError` for what the protocol cannot carry."""
    row = _WRITERS.get(type(message))
    if row is None:
        raise WireError(f"{type(message).__name__} has no body of its own", 0)
    type_code, write = row
    try:
        return type_code + write(message)
    except error as cause:
        raise WireError(f"{type(message).__name__}: {cause}", 0) from None


def write_fields(message: m.Message) -> bytes:
    """The fields without the type code (version 0)."""
    return write_body(message)[TYPE_CODE_BYTES:]


def _unreadable(code: int, buf: bytes, pos: int, end: int) -> WireError:
    return _truncated(code, end, len(buf) + 1) if code in ALL_LAYOUTS else _unknown(code, pos)


def _truncated(code: int, end: int, needed: int) -> Truncated:
    return Truncated(f"{ALL_LAYOUTS[code].message.__name__} ends in the middle of a field", end, needed)


def _unknown(code: int, pos: int) -> WireError:
    return WireError(f"unknown message type code {code}", pos)


def _no_reader(code: int) -> Reader:
    def read(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
        raise _unknown(code, pos)

    return read


# --- several in one frame ---------------------------------------------------------------------------------------------

_CONTAINERS = (m.MergedWarpMessage, m.MergeResultMessage, m.BatchResultMessage)
_RESULTS = (m.TransactionResponse, m.RegisterResponse)


def _read_merged(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
    stop = _merged_end(buf, pos, end)
    children, ids_at = _read_children(buf, pos + 4, stop)
    # Clients before 0.8 send no ids at all.
    ids, last = _read_ids(buf, ids_at, stop, len(children)) if ids_at < stop else ((), ids_at)
    _check_merged_end(last, stop)
    return m.MergedWarpMessage(children, ids), stop


def _read_merge_result(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
    stop = _merged_end(buf, pos, end)
    children, last = _read_children(buf, pos + 4, stop)
    _check_results(children, pos)
    _check_merged_end(last, stop)
    return m.MergeResultMessage(children), stop


def _read_batch_result(buf: bytes, pos: int, end: int) -> tuple[m.Message, int]:
    stop = _merged_end(buf, pos, end)
    children, ids_at = _read_children(buf, pos + 4, stop)
    _check_results(children, pos)
    ids, last = _read_ids(buf, ids_at, stop, len(children))
    _check_merged_end(last, stop)
    return m.BatchResultMessage(children, ids), stop


def _merged_end(buf: bytes, pos: int, end: int) -> int:
    (length,) = unpack_int(buf, pos)
    stop: int = pos + 4 + length
    if length < 2:
        raise WireError(f"merged messages of {length} bytes", pos)
    if stop > end:
        raise Truncated(f"merged messages of {length} bytes go past the end", pos, stop)
    return stop


def _read_children(buf: bytes, pos: int, stop: int) -> tuple[tuple[m.Message, ...], int]:
    (count,) = unpack_short(buf, pos)
    if count < 0:
        raise WireError(f"{count} merged messages", pos)
    children: list[m.Message] = []
    pos += 2
    try:
        for _ in range(count):
            if stop - pos < 2:
                raise WireError(f"{len(children)} merged messages where {count} were announced", pos)
            code = buf[pos] << 8 | buf[pos + 1]
            if code in _CONTAINER_CODES:
                raise WireError(f"message of type {code} inside merged messages", pos)
            child, pos = read_fields(code, buf, pos + 2, stop)
            children.append(child)
    except Truncated as short:
        # Their total length is known and all of it is here: more bytes would not help.
        raise WireError(short.reason, short.offset) from None
    return tuple(children), pos


def _read_ids(buf: bytes, pos: int, stop: int, count: int) -> tuple[tuple[int, ...], int]:
    last = pos + 4 * count
    if last > stop:
        raise WireError(f"{(stop - pos) // 4} message ids for {count} messages", pos)
    return Struct(f">{count}i").unpack_from(buf, pos), last


def _check_merged_end(last: int, stop: int) -> None:
    if last != stop:
        raise WireError(f"{stop - last} bytes behind the last merged message", last)


def _check_results(children: tuple[m.Message, ...], pos: int) -> None:
    for child in children:
        if not isinstance(child, _RESULTS):
            raise WireError(f"{type(child).__name__} among results", pos)


def _write_merged(message: m.MergedWarpMessage) -> bytes:
    if message.msg_ids and len(message.msg_ids) != len(message.msgs):
        raise WireError(f"{len(message.msg_ids)} message ids for {len(message.msgs)} messages", 0)
    return _write_children(message.msgs, message.msg_ids)


def _write_merge_result(message: m.MergeResultMessage) -> bytes:
    _check_results(message.msgs, 0)
    return _write_children(message.msgs, ())


def _write_batch_result(message: m.BatchResultMessage) -> bytes:
    if len(message.msg_ids) != len(message.result_messages):
        raise WireError(f"{len(message.msg_ids)} message ids for {len(message.result_messages)} messages", 0)
    _check_results(message.result_messages, 0)
    return _write_children(message.result_messages, message.msg_ids)


def _write_children(children: tuple[m.Message, ...], ids: tuple[int, ...]) -> bytes:
    parts = []
    for child in children:
        if isinstance(child, _CONTAINERS):
            raise WireError(f"{type(child).__name__} inside merged messages", 0)
        parts.append(write_body(child))
    parts.append(Struct(f">{len(ids)}i").pack(*ids))
    content = b"".join(parts)
    return _pack_merged_head(len(content) + 2, len(children)) + content


# --- the table --------------------------------------------------------------------------------------------------------

_ROWS = (
    *SINGLES,
    Layout(m.MergedWarpMessage, _read_merged, _write_merged),
    Layout(m.MergeResultMessage, _read_merge_result, _write_merge_result),
    Layout(m.BatchResultMessage, _read_batch_result, _write_batch_result),
)

LAYOUTS: Final = MappingProxyType({int(row.message.TYPE_CODE): row for row in _ROWS})
ALL_LAYOUTS: Final = MappingProxyType(
    {**LAYOUTS, **{int(row.message.TYPE_CODE): row for row in (*PRIVATE_LAYOUTS, *LOCK_LAYOUTS, *SAGA_LAYOUTS)}}
)
"""Also those that are ours alone."""
# By position, since finding a row is part of reading every message; the gaps refuse.
_READERS: Final = tuple(
    ALL_LAYOUTS[code].read if code in ALL_LAYOUTS else _no_reader(code) for code in range(max(ALL_LAYOUTS) + 1)
)
_WRITERS: Final = MappingProxyType(
    {row.message: (pack_short(row.message.TYPE_CODE), row.write) for row in ALL_LAYOUTS.values()}
)
_CONTAINER_CODES: Final = frozenset(int(message.TYPE_CODE) for message in _CONTAINERS)
