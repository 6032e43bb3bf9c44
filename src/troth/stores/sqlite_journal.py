"""The journal of the embedded store: one row a batch, packed, checked, and read back as deltas.

A row's `deltas` are one format byte and a MessagePack array of two: the kind of each write as one byte, and of each
write its fields in the order in which `core/effects.py` has them. Format 2 has texts as bytes, because MessagePack's
text cannot hold a lone surrogate. A field with a default may be added at the end; any other change of the fields needs
a new format, and a reader for the old one.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec.structs import astuple

from troth.core.effects import AddBranch, DropBranch, EndGlobal, MarkBranch, MarkGlobal, OpenGlobal, Write
from troth.stores.packed import pack_branches, pack_plan, pack_terms, unpack_branches, unpack_plan, unpack_terms
from troth.stores.sqlite_statements import decode, encode
from troth.stores.store import Batch, StoreCorrupt

PLAIN, BYTES = b"\x01", b"\x02"

KINDS: tuple[type[Write], ...] = (OpenGlobal, MarkGlobal, AddBranch, MarkBranch, DropBranch, EndGlobal)
"""A write's kind is its place here; places are never given anew."""

_CODES = MappingProxyType({kind: code for code, kind in enumerate(KINDS)})
_PACKED: Mapping[type[Write], tuple[str, Any, Callable[..., bytes | None], Callable[[bytes], object]]] = (
    MappingProxyType(
        {
            OpenGlobal: ("terms", None, pack_terms, unpack_terms),
            AddBranch: ("plan", None, pack_plan, unpack_plan),
            EndGlobal: ("branches", (), pack_branches, unpack_branches),
        }
    )
)
"""A kind's last field that is no plain value: its name, its default, and its way to bytes and back (packed.py)."""


def _array_of(kind: type[Write]) -> type[Any]:
    """A delta as an array; fields that it lacks, because they were added later, have their defaults."""
    packed = _PACKED.get(kind)
    fields = [] if packed is None else [(packed[0], bytes | tuple[()] | None, packed[1])]
    return msgspec.defstruct(
        kind.__name__, fields, bases=(kind,), frozen=True, array_like=True, forbid_unknown_fields=True
    )


_ARRAYS: tuple[type[Any], ...] = tuple(map(_array_of, KINDS))
_PACKED_BY_CODE = tuple(map(_PACKED.get, KINDS))
_DECODERS = tuple(msgspec.msgpack.Decoder(array) for array in _ARRAYS)

INSERT = "INSERT INTO journal (number, last_id, crc32, deltas) VALUES (?, ?, ?, ?)"
ROWS = "SELECT number, last_id, crc32, deltas FROM journal ORDER BY number"
DELETE = "DELETE FROM journal WHERE number <= ?"


@dataclass(frozen=True, slots=True)
class Entry:
    """One row."""

    number: int
    last_id: int
    crc32: int
    deltas: bytes


def pack(batch: Batch) -> Entry:
    """The row that keeps `batch`. Raises OverflowError for a number that no format holds."""
    deltas = pack_writes(batch.writes)
    return Entry(batch.number, batch.last_id, checksum(batch.number, batch.last_id, deltas), deltas)


def unpack(entry: Entry) -> list[Write]:
    """The writes of a row, in order; raises StoreCorrupt, which names the row, if it is not as it was written."""
    try:
        if entry.crc32 != checksum(entry.number, entry.last_id, entry.deltas):
            raise ValueError("its checksum is wrong")
        return unpack_writes(entry.deltas)
    except (ValueError, TypeError) as damage:  # msgspec's errors are ValueErrors
        raise StoreCorrupt(
            f"row {entry.number} of the journal is damaged ({damage}): restore the store from a copy"
        ) from damage


def insert(connection: sqlite3.Connection, entry: Entry) -> None:
    """Write a row; in no transaction of its own, so it is one statement, and durable on return."""
    connection.execute(INSERT, (entry.number, entry.last_id, entry.crc32, entry.deltas))


def read(connection: sqlite3.Connection) -> Iterator[Entry]:
    """All rows, oldest first. Raises StoreCorrupt for what is no row of ours."""
    for number, last_id, crc32, deltas in connection.execute(ROWS):
        if not (isinstance(last_id, int) and isinstance(crc32, int) and isinstance(deltas, bytes)):
            raise StoreCorrupt(f"row {number} of the journal is damaged (its columns): restore the store from a copy")
        yield Entry(number, last_id, crc32, deltas)


def checksum(number: int, last_id: int, deltas: bytes) -> int:
    """CRC-32 over the whole row."""
    return zlib.crc32(deltas, zlib.crc32(b"%d %d " % (number, last_id)))


def pack_writes(writes: Sequence[Write]) -> bytes:
    """Without the row around them."""
    kinds = bytes(map(_CODES.__getitem__, map(type, writes)))
    fields: list[tuple[object, ...]] = list(map(astuple, writes))
    for number, values in enumerate(fields):
        if values[-1] and (packed := _PACKED_BY_CODE[kinds[number]]) is not None:
            fields[number] = (*values[:-1], packed[2](values[-1]))
    try:
        return PLAIN + msgspec.msgpack.encode((kinds, fields))
    except UnicodeEncodeError:
        return BYTES + msgspec.msgpack.encode((kinds, [_texts_as_bytes(values) for values in fields]))


def unpack_writes(deltas: bytes) -> list[Write]:
    """What `pack_writes` was given. Raises ValueError for what it has not made."""
    format_byte, packed = deltas[:1], deltas[1:]
    if format_byte not in (PLAIN, BYTES):
        raise ValueError(f"its format {format_byte.hex() or 'is missing'} is unknown")
    kinds, fields = msgspec.msgpack.decode(packed, type=tuple[bytes, list[msgspec.Raw]])
    if len(kinds) != len(fields):
        raise ValueError("its kinds and writes differ in number")
    if kinds and max(kinds) >= len(KINDS):
        raise ValueError(f"its kind {max(kinds)} is unknown")
    arrays = map(_plain if format_byte == PLAIN else _with_bytes, kinds, fields)
    return [_write(kind, astuple(array)) for kind, array in zip(kinds, arrays, strict=True)]


def _write(kind: int, values: tuple[Any, ...]) -> Write:
    packed = _PACKED_BY_CODE[kind]
    if packed is not None and isinstance(values[-1], bytes):
        values = (*values[:-1], packed[3](values[-1]))
    return KINDS[kind](*values)


def _plain(kind: int, raw: msgspec.Raw) -> Any:
    return _DECODERS[kind].decode(raw)


def _with_bytes(kind: int, raw: msgspec.Raw) -> Any:
    values = msgspec.msgpack.decode(raw)
    is_packed = _PACKED_BY_CODE[kind] is not None and len(values) == len(_ARRAYS[kind].__struct_fields__)
    packed = values[-1:] if is_packed else []
    plain = values[:-1] if is_packed else values
    texts = [decode(value) if isinstance(value, bytes) else value for value in plain] + packed
    return msgspec.convert(texts, type=_ARRAYS[kind])


def _texts_as_bytes(values: tuple[object, ...]) -> list[object]:
    return [encode(value) if isinstance(value, str) else value for value in values]
