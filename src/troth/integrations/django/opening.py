"""How a Django backend opens its connection, whatever transaction the thread is in at that moment."""

from __future__ import annotations

from typing import Any

from troth.client.context import join

_Base: Any = object


class OpensOutside(_Base):  # type: ignore[misc,unused-ignore]
    """Django connects at the first query, perhaps inside of a global transaction: its set-up is no part of that."""

    def connect(self) -> None:
        """`BaseDatabaseWrapper.connect`."""
        with join(None):
            super().connect()
