"""What users keep in the embedded store: one statement a change, so each is durable when it returns."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from troth.stores.sqlite_statements import decode, encode
from troth.stores.store import KeyValue

ROWS = "SELECT id, cat, k, v, version, create_ms, update_ms FROM kv"
GET = f"{ROWS} WHERE cat = ? AND k = ?"
SCAN = f"{ROWS} WHERE cat = ? AND id > ? ORDER BY id LIMIT ?"
ADD = "INSERT OR IGNORE INTO kv (cat, k, v, version, create_ms, update_ms) VALUES (?, ?, ?, 1, ?, ?)"
CHANGE = "UPDATE kv SET v = ?, version = version + 1, update_ms = ? WHERE cat = ? AND k = ? AND version = ?"
DELETE = "DELETE FROM kv WHERE cat = ? AND k = ?"


def get(connection: sqlite3.Connection, cat: str, key: str) -> KeyValue | None:
    """See `Store.kv_get`."""
    row = connection.execute(GET, (encode(cat), encode(key))).fetchone()
    return None if row is None else _key_value(row)


def put(
    connection: sqlite3.Connection, cat: str, key: str, value: str, expected_version: int | None, now_ms: int
) -> bool:
    """See `Store.kv_put`."""
    if expected_version is None:
        changed = connection.execute(ADD, (encode(cat), encode(key), encode(value), now_ms, now_ms)).rowcount
    else:
        changed = connection.execute(
            CHANGE, (encode(value), now_ms, encode(cat), encode(key), expected_version)
        ).rowcount
    return changed == 1


def delete(connection: sqlite3.Connection, cat: str, key: str) -> bool:
    """See `Store.kv_delete`."""
    return connection.execute(DELETE, (encode(cat), encode(key))).rowcount == 1


def scan(connection: sqlite3.Connection, cat: str, after: int, limit: int) -> Sequence[KeyValue]:
    """See `Store.kv_scan`."""
    return [_key_value(row) for row in connection.execute(SCAN, (encode(cat), after, limit))]


def _key_value(row: tuple[int, bytes, bytes, bytes, int, int, int]) -> KeyValue:
    number, cat, key, value, version, create_ms, update_ms = row
    return KeyValue(number, decode(cat), decode(key), decode(value), version, create_ms, update_ms)
