"""What a call to a branch by URL is, whatever carries it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from troth.core.effects import Call
from troth.wire.dtm.results import Verdict


class UrlCall(NamedTuple):
    """One call of one op of a branch. `kind` is DTM's trans_type, `branch_id` DTM's id of the branch ("01")."""

    call: Call
    url: str
    gid: str
    kind: str
    branch_id: str
    op: str
    payload: bytes
    headers: Mapping[str, str]
    timeout_s: float
    always_post: bool
    protocol: str


Settle = Callable[[UrlCall, Verdict, str], None]
"""Called once for every call, on the loop: what the answer means, and its text for a person."""


class UrlCaller(Protocol):
    """Carries calls of one kind of URL."""

    def call(self, url_call: UrlCall) -> None:
        """Send it; `Settle` follows within its time limit. Does not raise."""
        ...

    async def close(self) -> None:
        """Let go of every connection; what is out is settled as not answered, or not at all."""
        ...
