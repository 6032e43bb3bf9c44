"""Every audit trail keeps what it was given, newest first, over a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from troth.stores.audit import AuditEntry, FileAudit, MemoryAudit, open_audit
from troth.stores.store import StoreError


def entry(number: int, xid: str = "h:1:2", stage: str = "decided") -> AuditEntry:
    row = msgspec.Raw(msgspec.json.encode({"row": "t:é\n"}))
    return AuditEntry(
        f"r{number}", stage, number, "ann@host", "127.0.0.1", xid, "7", "jdbc:x", "resolve", {"t:1": "keep"}, rows=[row]
    )


async def check(url: str) -> None:
    trail = open_audit(url)
    assert await trail.entries(None, 10) == []
    for number in range(3):
        await trail.append(entry(number, xid=f"h:1:{number % 2}"))
    await trail.append(entry(0, xid="h:1:0", stage="done"))
    await trail.close()
    again = trail if isinstance(trail, MemoryAudit) else open_audit(url)
    found = await again.entries(None, 10)
    assert [(one.resolution, one.stage) for one in found] == [
        ("r0", "done"),
        ("r2", "decided"),
        ("r1", "decided"),
        ("r0", "decided"),
    ]
    assert msgspec.json.decode(found[0].rows[0]) == {"row": "t:é\n"}
    assert [one.resolution for one in await again.entries("h:1:1", 10)] == ["r1"]
    assert len(await again.entries(None, 2)) == 2
    await again.close()


def test_in_memory() -> None:
    asyncio.run(check("memory://"))


def test_in_a_file(tmp_path: Path) -> None:
    asyncio.run(check(f"sqlite:///{tmp_path}/troth.db"))
    assert (tmp_path / "troth.db.audit.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.engines
def test_in_postgresql(new_postgres_database: object) -> None:
    asyncio.run(check(new_postgres_database()))  # type: ignore[operator]


def test_a_line_torn_by_a_power_loss_hides_nothing_else(tmp_path: Path) -> None:
    async def play() -> list[str]:
        trail = FileAudit(tmp_path / "a.jsonl")
        await trail.append(entry(1))
        content = (tmp_path / "a.jsonl").read_bytes()
        (tmp_path / "a.jsonl").write_bytes(content + content[: len(content) // 2])
        await trail.append(entry(2))
        return [one.resolution for one in await trail.entries(None, 10)]

    assert asyncio.run(play()) == ["r2", "r1"]


def test_a_disk_that_takes_nothing_is_said(tmp_path: Path) -> None:
    trail = FileAudit(tmp_path / "missing" / "a.jsonl")
    with pytest.raises(StoreError, match="cannot be written"):
        asyncio.run(trail.append(entry(1)))
