"""What operators have decided, durably and beside the store's batches: it is rare, never in the way, never purged.

Append only. A SQLite store has it as JSON lines in `FILE.audit.jsonl` next to it, a PostgreSQL store as the table
`troth_audit.entry` of the same database, so that whoever leads next knows it too; `memory://` forgets it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Protocol

import msgspec

from troth.stores.store import StoreError

LARGEST_ENTRY_BYTES = 2 << 20


class AuditEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step of one decision. `stage`: decided (written before anything is done), done, or refused.

    `at_ms` is the coordinator's clock, `rows` what the resource manager reported (before, after, now of each row).
    """

    resolution: str
    stage: str
    at_ms: int
    operator: str
    source: str
    """Where the request came from: the peer's address."""
    xid: str
    branch_id: str
    resource_id: str
    action: str
    decisions: dict[str, str] = {}
    others: str | None = None
    reason: str | None = None
    via: str = "client"
    """client: the coordinator asked a resource manager. direct: an operator's own connection did it."""
    state: str | None = None
    problem: str | None = None
    rows: list[msgspec.Raw] = []
    row_count: int = 0


class AuditTrail(Protocol):
    """Where entries are kept. Every method raises StoreError."""

    async def append(self, entry: AuditEntry) -> None:
        """Durable on return."""
        ...

    async def entries(self, xid: str | None, limit: int) -> list[AuditEntry]:
        """The newest `limit` entries (of `xid`), newest first."""
        ...

    async def close(self) -> None:
        """Let go of it."""
        ...


def open_audit(store_url: str) -> AuditTrail:
    """The audit trail that goes with the store at `store_url`. Nothing is opened before it is used."""
    scheme, _, rest = store_url.partition("://")
    if scheme == "sqlite":
        return FileAudit(Path(f"{rest[1:]}.audit.jsonl"))
    if scheme in ("postgresql", "postgres"):
        # asyncpg is asked for only by those who use it
        trail: AuditTrail = import_module("troth.stores.audit_postgres").PostgresAudit(f"postgresql://{rest}")
        return trail
    return MemoryAudit()


def encode_entry(entry: AuditEntry) -> bytes:
    """One line of JSON; rows that would make it too long are left out (`row_count` says how many there were)."""
    line = msgspec.json.encode(entry)
    return line if len(line) <= LARGEST_ENTRY_BYTES else msgspec.json.encode(msgspec.structs.replace(entry, rows=[]))


def decode_entry(line: bytes) -> AuditEntry:
    """The reverse of `encode_entry`. Raises StoreError."""
    try:
        return msgspec.json.decode(line, type=AuditEntry)
    except msgspec.DecodeError as error:
        raise StoreError(f"the audit trail holds a line that is none of its own: {error}") from error


def newest(entries: Iterable[AuditEntry], xid: str | None, limit: int) -> list[AuditEntry]:
    """The newest `limit` of `entries` (oldest first) that are of `xid`."""
    return [entry for entry in entries if xid is None or entry.xid == xid][::-1][:limit]


class MemoryAudit:
    """For `memory://`."""

    def __init__(self) -> None:
        self._entries: list[AuditEntry] = []

    async def append(self, entry: AuditEntry) -> None:
        self._entries.append(entry)

    async def entries(self, xid: str | None, limit: int) -> list[AuditEntry]:
        return newest(self._entries, xid, limit)

    async def close(self) -> None:
        """Nothing to let go of."""


class FileAudit:
    """JSON lines in a file, each synced to disk before it counts. A torn last line (power loss) is passed over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = asyncio.Lock()

    async def append(self, entry: AuditEntry) -> None:
        async with self._turn:
            try:
                await asyncio.to_thread(self._write, encode_entry(entry))
            except OSError as error:
                raise StoreError(f"the audit trail {self._path} cannot be written: {error}") from error

    async def entries(self, xid: str | None, limit: int) -> list[AuditEntry]:
        try:
            lines = await asyncio.to_thread(self._read)
        except OSError as error:
            raise StoreError(f"the audit trail {self._path} cannot be read: {error}") from error
        return newest(map(decode_entry, lines), xid, limit)

    async def close(self) -> None:
        """Each write has opened and closed the file."""

    def _write(self, line: bytes) -> None:
        born = not self._path.exists()
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with open(descriptor, "r+b", buffering=0) as file:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line  # what a power loss has torn stays alone on its line
            file.write(line + b"\n")
            os.fsync(descriptor)
        if born:
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _read(self) -> list[bytes]:
        if not self._path.exists():
            return []
        return [line for line in self._path.read_bytes().split(b"\n") if line and not _is_torn(line)]


def _is_torn(line: bytes) -> bool:
    """A piece of a line, from a power loss in the middle of a write that nobody was told had been done."""
    try:
        msgspec.json.decode(line)
    except msgspec.DecodeError:
        return True
    return False
