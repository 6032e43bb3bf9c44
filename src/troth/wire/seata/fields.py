"""Primitive fields of a body: big-endian integers, two kinds of text, enum codes (PROTOCOL §3).

Readers take `(buf, pos, end)` and give `(value, next pos)`. `end` is where the message ends; `buf` may go on with other
frames. A reader of a *fixed* size does not look at `end`: running past it is noticed once per message, in `bodies`,
because checking every byte would double the cost. Texts check it, since a length comes from the peer.
"""

from enum import IntEnum
from struct import Struct
from typing import Final, TypeVar

from troth.wire.seata.errors import Truncated, WireError

MAX_TEXT2_BYTES: Final = 32767
"""Longest text behind a two-byte length. Seata overflows silently above it and cannot read its own frame back."""

_SHORT = Struct(">h")
_INT = Struct(">i")
_LONG = Struct(">q")
_EMPTY_TEXT2 = bytes(2)
_EMPTY_TEXT4 = bytes(4)

pack_short = _SHORT.pack
pack_int = _INT.pack
pack_long = _LONG.pack
unpack_short = _SHORT.unpack_from
unpack_int = _INT.unpack_from
unpack_long = _LONG.unpack_from

EnumT = TypeVar("EnumT", bound=IntEnum)


def read_text2(buf: bytes, pos: int, end: int) -> tuple[str | None, int]:
    """Text behind a two-byte length; length 0 is `None`."""
    size = buf[pos] << 8 | buf[pos + 1]
    start = pos + 2
    if not size:
        return None, start
    stop = start + size
    if size > MAX_TEXT2_BYTES or stop > end:
        raise _bad_length(size if size <= MAX_TEXT2_BYTES else size - 0x10000, pos, start, end)
    try:
        return buf[start:stop].decode(), stop
    except UnicodeDecodeError as error:
        raise _bad_text(error, start) from None


def read_text4(buf: bytes, pos: int, end: int) -> tuple[str | None, int]:
    """Text behind a four-byte length; length 0 is `None`."""
    (size,) = unpack_int(buf, pos)
    start = pos + 4
    if not size:
        return None, start
    stop = start + size
    if size < 0 or stop > end:
        raise _bad_length(size, pos, start, end)
    try:
        return buf[start:stop].decode(), stop
    except UnicodeDecodeError as error:
        raise _bad_text(error, start) from None


def read_code(codes: tuple[EnumT, ...], buf: bytes, pos: int) -> EnumT:
    """Member of an enum whose codes are 0, 1, 2 … without a gap, from one byte."""
    code = buf[pos]
    if code < len(codes):
        return codes[code]
    raise WireError(f"unknown {type(codes[0]).__name__} {code}", pos)


def text2(value: str | None) -> bytes:
    """`value` behind a two-byte length. `WireError` if it is longer than `MAX_TEXT2_BYTES` or not Unicode."""
    if not value:
        return _EMPTY_TEXT2
    raw = encoded(value)
    if len(raw) > MAX_TEXT2_BYTES:
        raise WireError(f"text of {len(raw)} bytes where the protocol carries {MAX_TEXT2_BYTES} at most", 0)
    return pack_short(len(raw)) + raw


def text4(value: str | None) -> bytes:
    """`value` behind a four-byte length. `WireError` if it is not Unicode."""
    if not value:
        return _EMPTY_TEXT4
    raw = encoded(value)
    return pack_int(len(raw)) + raw


def cut_text2(value: str | None) -> bytes:
    """As `text2`, but a text that is too long loses its end: for messages to people, where the start is enough.

    Seata cuts after 32767 characters, which still overflows when some take more than one byte; this cuts after 32767
    bytes, never inside a character. The two agree wherever Seata's can be read back.
    """
    if not value:
        return _EMPTY_TEXT2
    raw = encoded(value)
    if len(raw) > MAX_TEXT2_BYTES:
        raw = raw[:MAX_TEXT2_BYTES].decode(errors="ignore").encode()
    return pack_short(len(raw)) + raw


def encoded(value: str) -> bytes:
    """`value` as UTF-8. `WireError` for half a surrogate pair, which is no character."""
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise WireError(f"text is not valid Unicode: {error.reason} at character {error.start}", 0) from None


def _bad_length(size: int, pos: int, start: int, end: int) -> WireError:
    if start > end:
        return Truncated("the message ends in the middle of a field", pos, start)
    if size < 0:
        return WireError(f"negative text length {size}", pos)
    return Truncated(f"text of {size} bytes goes past the end", pos, start + size)


def _bad_text(error: UnicodeDecodeError, start: int) -> WireError:
    return WireError(f"text is not valid UTF-8: {error.reason}", start + error.start)
