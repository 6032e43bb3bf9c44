"""Transactions whose branches this process calls, and the coordinator ends: TCC and XA by URL."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import msgspec

from troth.client.dtm_speaker import Speaker
from troth.client.errors import NoTransaction
from troth.client.flow import Flow
from troth.client.modes.dtm import (
    Kind,
    Options,
    Transaction,
    abort_because,
    call_branch,
    payload_text,
    prepare,
    register,
    submit,
)


class _Called:
    """A global transaction as a block: it commits at the end, and an exception rolls it back.

    Raises (at the end of the block):
        TransactionRolledBack: it was rolled back meanwhile (its timeout passed).
        OutcomeUnknown: no answer came; it may be committed.
    """

    kind: Kind

    def __init__(self, speaker: Speaker, gid: str, options: Options, *, parent: str = "", wait: bool = False) -> None:
        self.gid = gid
        self._speaker = speaker
        self._transaction = Transaction(gid, self.kind, options)
        self._parent = parent
        self._wait = wait
        self._branches = 0

    @classmethod
    def joined(cls, speaker: Speaker, query: Mapping[str, str]) -> Self:
        """Inside of a branch: its own branches become branches of the same transaction. Raises NoTransaction."""
        if not query.get("gid") or not query.get("branch_id") or query.get("trans_type") != cls.kind.value:
            raise NoTransaction(f"the request is no branch of a {cls.kind.value} transaction of DTM's style")
        return cls(speaker, query["gid"], Options(), parent=query["branch_id"])

    def __enter__(self) -> Self:
        self._check_colour(is_async=False)
        self._speaker.do(self._begun())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._speaker.do(self._ended(error))

    async def __aenter__(self) -> Self:
        self._check_colour(is_async=True)
        await self._speaker.do(self._begun())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._speaker.do(self._ended(error))

    def _check_colour(self, *, is_async: bool) -> None:
        if self._speaker.is_async is not is_async:
            raise TypeError("write `async with` on an async client, `with` on a blocking one")
        if self._parent:
            raise TypeError("a transaction that was joined is ended by who began it: call its branches without `with`")

    def _begun(self) -> Flow[None]:
        yield from prepare(self._speaker.link, self._transaction)

    def _ended(self, error: BaseException | None) -> Flow[None]:
        if error is None:
            yield from submit(self._speaker.link, self._transaction, wait=self._wait)
        else:
            yield from abort_because(self._speaker.link, self._transaction, error)

    def _next_branch(self) -> str:
        self._branches += 1
        return f"{self._parent}{self._branches:02d}"


class Tcc(_Called):
    """Try here, confirm or cancel by the coordinator."""

    kind = Kind.TCC

    def call(self, try_: str, *, confirm: str, cancel: str, payload: object = None) -> Any:
        """Register a branch and call its try; the body of its answer, read as JSON where it is that.

        Args:
            try_, confirm, cancel: URLs; the coordinator calls one of the last two, until it answers 200.
            payload: what all three get as their body.

        Raises:
            BranchRefused, Ongoing, BranchUnanswered: what the try said; let it end the block.
            CoordinatorRefused, CoordinatorUnavailable: the branch is not registered, and was not called.
        """
        return self._speaker.do(self._tried(try_, confirm, cancel, payload_text(payload)))

    def _tried(self, try_: str, confirm: str, cancel: str, payload: str) -> Flow[Any]:
        branch_id = self._next_branch()
        data = {"data": payload, "confirm": confirm, "cancel": cancel}
        yield from register(self._speaker.link, self.gid, Kind.TCC, branch_id, data)
        body = yield from call_branch(self._speaker.link, self._transaction, branch_id, "try", try_, payload)
        return read_body(body)


class Xa(_Called):
    """Branches that prepare in their databases (`troth.dtm.xa_branch`, or DTM's clients in other languages)."""

    kind = Kind.XA

    def call(self, url: str, payload: object = None) -> Any:
        """Call a branch: it works in its database, registers itself and prepares. Raises as `Tcc.call`."""
        return self._speaker.do(self._prepared(url, payload_text(payload)))

    def _prepared(self, url: str, payload: str) -> Flow[Any]:
        branch_id, more = self._next_branch(), {"phase2_url": url}
        body = yield from call_branch(self._speaker.link, self._transaction, branch_id, "action", url, payload, more)
        return read_body(body)


def read_body(body: bytes) -> Any:
    """JSON where it is that; else the bytes."""
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body
