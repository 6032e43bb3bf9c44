"""Settings that users keep in a store (topics of messages), in memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, islice

from msgspec.structs import replace

from troth.stores.store import KeyValue


class KeyValues:
    """Texts by category and key, each with the number of its version."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], KeyValue] = {}
        self._ids = count(1)

    def get(self, cat: str, key: str) -> KeyValue | None:
        """See `Store.kv_get`."""
        return self._rows.get((cat, key))

    def put(self, cat: str, key: str, value: str, expected_version: int | None, now_ms: int) -> bool:
        """See `Store.kv_put`."""
        old = self._rows.get((cat, key))
        if (None if old is None else old.version) != expected_version:
            return False
        if old is None:
            self._rows[cat, key] = KeyValue(next(self._ids), cat, key, value, 1, now_ms, now_ms)
        else:
            self._rows[cat, key] = replace(old, v=value, version=old.version + 1, update_ms=now_ms)
        return True

    def delete(self, cat: str, key: str) -> bool:
        """See `Store.kv_delete`."""
        return self._rows.pop((cat, key), None) is not None

    def scan(self, cat: str, after: int, limit: int) -> Sequence[KeyValue]:
        """See `Store.kv_scan`."""
        return list(islice((row for row in self._rows.values() if row.cat == cat and row.id > after), limit))
