"""What users keep in the shared store. A change holds the row of the lease, so a deposed leader changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from troth.stores.postgres_link import Connection
from troth.stores.postgres_reading import Row
from troth.stores.postgres_statements import CELL, decode, encode
from troth.stores.store import KeyValue

ROWS = "SELECT id, cat, k, v, version, create_ms, update_ms FROM troth.kv"
GET = f"{ROWS} WHERE cat = $1 AND k = $2"
SCAN = f"{ROWS} WHERE cat = $1 AND id > $2 ORDER BY id LIMIT $3"
_LEADS = "WITH leads AS (SELECT FROM troth.cell WHERE id = $1 AND epoch = $2 FOR NO KEY UPDATE)"
ADD = (
    f"{_LEADS} INSERT INTO troth.kv (cat, k, v, version, create_ms, update_ms)"
    " SELECT $3::bytea, $4::bytea, $5::bytea, 1, $6::bigint, $6::bigint FROM leads"
    " ON CONFLICT (cat, k) DO NOTHING RETURNING id"
)
CHANGE = (
    f"{_LEADS} UPDATE troth.kv SET v = $5, version = version + 1, update_ms = $6 FROM leads"
    " WHERE cat = $3 AND k = $4 AND version = $7 RETURNING id"
)
DELETE = f"{_LEADS} DELETE FROM troth.kv USING leads WHERE cat = $3 AND k = $4 RETURNING id"


async def get(connection: Connection, cat: str, key: str) -> KeyValue | None:
    """See `Store.kv_get`."""
    row = await connection.fetchrow(GET, encode(cat), encode(key))
    return None if row is None else _key_value(row)


async def put(
    connection: Connection, epoch: int, cat: str, key: str, value: str, expected_version: int | None, now_ms: int
) -> bool:
    """See `Store.kv_put`."""
    arguments = [CELL, epoch, encode(cat), encode(key), encode(value), now_ms]
    if expected_version is None:
        return await connection.fetchval(ADD, *arguments) is not None
    return await connection.fetchval(CHANGE, *arguments, expected_version) is not None


async def delete(connection: Connection, epoch: int, cat: str, key: str) -> bool:
    """See `Store.kv_delete`."""
    return await connection.fetchval(DELETE, CELL, epoch, encode(cat), encode(key)) is not None


async def scan(connection: Connection, cat: str, after: int, limit: int) -> Sequence[KeyValue]:
    """See `Store.kv_scan`."""
    return [_key_value(row) for row in await connection.fetch(SCAN, encode(cat), after, limit)]


def _key_value(row: Row) -> KeyValue:
    number, cat, key, value, version, create_ms, update_ms = row
    return KeyValue(number, decode(cat), decode(key), decode(value), version, create_ms, update_ms)
