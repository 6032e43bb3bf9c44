"""The journal of the embedded store: one row a batch, packed, checked, and read back as deltas.

A row's `deltas` are one format byte and a MessagePack array of two: the kind of each write as one byte, and of each
write its fields in the order in which `core/effects.py` has them. Format 2 has texts as bytes, because MessagePack's
text cannot hold a lone surrogate. A field with a default may be added at the end; any other change of the fields needs
a new format, and a reader for the old one.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec.structs import astuple

from troth.core.effects import AddBranch, DropBranch, EndGlobal, MarkBranch, MarkGlobal, OpenGlobal, Write
from troth.stores.sqlite_statements import decode, encode
from troth.stores.store import Batch, StoreCorrupt

PLAIN, BYTES = b"\x01", b"\x02"

KINDS: tuple[type[Write], ...] = (OpenGlobal, MarkGlobal, AddBranch, MarkBranch, DropBranch, EndGlobal)
"""A write's kind is its place here; places are never given anew."""

_CODES = MappingProxyType({kind: code for code, kind in enumerate(KINDS)})
# a delta as an array; fields that it lacks, because they were added later, have their defaults
_ARRAYS: tuple[type[Any], ...] = tuple(
    msgspec.defstruct(kind.__name__, [], bases=(kind,), frozen=True, array_like=True, forbid_unknown_fields=True)
    for kind in KINDS
)
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
    return [KINDS[kind](*astuple(array)) for kind, array in zip(kinds, arrays, strict=True)]


def _plain(kind: int, raw: msgspec.Raw) -> Any:
    return _DECODERS[kind].decode(raw)


def _with_bytes(kind: int, raw: msgspec.Raw) -> Any:
    values = [decode(value) if isinstance(value, bytes) else value for value in msgspec.msgpack.decode(raw)]
    return msgspec.convert(values, type=_ARRAYS[kind])


def _texts_as_bytes(values: tuple[object, ...]) -> list[object]:
    return [encode(value) if isinstance(value, str) else value for value in values]
