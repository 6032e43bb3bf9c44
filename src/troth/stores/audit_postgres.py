"""The audit trail of a PostgreSQL store, in a schema of its own: it belongs to no leader's term."""

from __future__ import annotations

from troth.stores.audit import AuditEntry, decode_entry, encode_entry
from troth.stores.postgres_link import Connection, Link

_WITHIN_S = 10.0
_CREATE = """
CREATE SCHEMA IF NOT EXISTS troth_audit;
CREATE TABLE IF NOT EXISTS troth_audit.entry (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    resolution text NOT NULL,
    stage text NOT NULL,
    xid bytea NOT NULL,
    content bytea NOT NULL,
    UNIQUE (resolution, stage)
);
"""
_LOCK = int.from_bytes(b"trau", "big")
_INSERT = (
    "INSERT INTO troth_audit.entry (resolution, stage, xid, content) VALUES ($1, $2, $3, $4)"
    " ON CONFLICT (resolution, stage) DO NOTHING"
)
_SELECT = "SELECT content FROM troth_audit.entry WHERE $1::bytea IS NULL OR xid = $1::bytea ORDER BY id DESC LIMIT $2"


class PostgresAudit:
    """One connection, made when it is first needed. An entry that was sent twice is kept once."""

    def __init__(self, url: str) -> None:
        self._link = Link(url)
        self._is_made = False

    async def append(self, entry: AuditEntry) -> None:
        async def insert(connection: Connection) -> None:
            await self._make(connection)
            xid = entry.xid.encode("utf-8", "surrogatepass")
            await connection.execute(_INSERT, entry.resolution, entry.stage, xid, encode_entry(entry))

        await self._link.use(insert, _WITHIN_S)

    async def entries(self, xid: str | None, limit: int) -> list[AuditEntry]:
        async def select(connection: Connection) -> list[AuditEntry]:
            await self._make(connection)
            wanted = None if xid is None else xid.encode("utf-8", "surrogatepass")
            return [decode_entry(row["content"]) for row in await connection.fetch(_SELECT, wanted, limit)]

        return await self._link.use(select, _WITHIN_S)

    async def close(self) -> None:
        await self._link.close()

    async def _make(self, connection: Connection) -> None:
        if self._is_made:
            return
        if await connection.fetchval("SELECT to_regclass('troth_audit.entry')") is None:
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
                await connection.execute(_CREATE)
        self._is_made = True
