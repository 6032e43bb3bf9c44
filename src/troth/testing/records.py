"""What the simulated clients did and believe, as the judge needs it at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from troth.testing.database import BranchName, Database

if TYPE_CHECKING:
    from troth.testing.rm import ResourceManager


class Records:
    """Tokens appended to rows, TCC branches tried, and which services said that their work is done."""

    def __init__(self) -> None:
        self.tokens: dict[str, tuple[str, bool]] = {}
        """Token → who wrote it, and whether its local transaction committed."""
        self.reserved: dict[BranchName, Database] = {}
        self.done: dict[tuple[str, str, str], int] = {}
        """(xid, service, work) → how often the service said that it is done."""

    def new_token(self, xid: str) -> str:
        """A value that nobody has appended yet."""
        token = f"v{len(self.tokens) + 1}"
        self.tokens[token] = (xid, False)
        return token

    def applied(self, token: str) -> None:
        """Its local transaction commits."""
        self.tokens[token] = (self.tokens[token][0], True)

    def believe(self, xid: str, service: ResourceManager, work: str) -> None:
        """The service said: done."""
        key = (xid, service.name, work)
        self.done[key] = self.done.get(key, 0) + 1

    def xids(self) -> list[str]:
        """Those that somebody worked in, oldest first."""
        return list(dict.fromkeys(xid for xid, _ in self.tokens.values()))
