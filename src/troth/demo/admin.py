"""The coordinator's admin API, as far as the demo asks it."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import Final

import msgspec

from troth.demo.events import Branch

ENDED: Final = frozenset(
    {
        "Committed",
        "CommitFailed",
        "Rollbacked",
        "RollbackFailed",
        "TimeoutRollbacked",
        "TimeoutRollbackFailed",
        "Finished",
    }
)
"""Seata's names of the statuses that do not change any more."""

_REQUEST_TIMEOUT_S: Final = 10.0


class Transaction(msgspec.Struct, frozen=True):
    """A global transaction as the coordinator sees it."""

    xid: str
    status: str
    branches: list[Branch]


class Admin:
    """Asks one coordinator; `url` is the base of its admin door."""

    def __init__(self, url: str) -> None:
        self.url = url
        # Loopback is never behind a proxy, whatever the environment says.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def transaction(self, xid: str) -> Transaction | None:
        """The transaction `xid`, or None if the coordinator does not know it."""
        try:
            with self._opener.open(f"{self.url}/api/transactions/{xid}", timeout=_REQUEST_TIMEOUT_S) as answer:
                return msgspec.json.decode(answer.read(), type=Transaction)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise
