"""Calls to branches: by URL where the branch has one, else by the channel of the client that serves it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import msgspec

from troth.core.effects import Call
from troth.core.events import Answered, CallResult
from troth.core.model import BranchType, Verb
from troth.server.logs import get_logger
from troth.server.outbound.seata import unanswered
from troth.server.outbound.url_calls import UrlCall, UrlCaller
from troth.wire.dtm.branches import (
    ACTION,
    CANCEL,
    COMMIT,
    COMPENSATE,
    CONFIRM,
    ROLLBACK,
    Detail,
    UrlBranch,
    decode_branch,
    decode_detail,
)
from troth.wire.dtm.messages import MSG, SAGA, TCC, WORKFLOW, XA
from troth.wire.dtm.results import Verdict

log = get_logger("troth.dtm")

_OPS: Mapping[tuple[BranchType, Verb], str] = MappingProxyType(
    {
        (BranchType.SAGA, Verb.ACTION): ACTION,
        (BranchType.SAGA, Verb.ROLLBACK): COMPENSATE,
        (BranchType.MESSAGE, Verb.ACTION): ACTION,
        (BranchType.TCC, Verb.COMMIT): CONFIRM,
        (BranchType.TCC, Verb.ROLLBACK): CANCEL,
        (BranchType.XA, Verb.COMMIT): COMMIT,
        (BranchType.XA, Verb.ROLLBACK): ROLLBACK,
    }
)
_KINDS: Mapping[BranchType, str] = MappingProxyType(
    {BranchType.SAGA: SAGA, BranchType.MESSAGE: MSG, BranchType.TCC: TCC, BranchType.XA: XA}
)
_RESULTS: Mapping[Verdict, CallResult] = MappingProxyType(
    {
        Verdict.DONE: CallResult.DONE,
        Verdict.REFUSED: CallResult.REFUSED,
        Verdict.ONGOING: CallResult.ONGOING,
        Verdict.RETRY: CallResult.RETRY,
    }
)
_MAY_REFUSE = frozenset({(BranchType.SAGA, Verb.ACTION), (BranchType.RUNNER, Verb.ASK)})
"""Whatever else a branch refuses is asked again for ever, as DTM does: it must not refuse what is decided."""
_DECIDED = frozenset({CallResult.DONE, CallResult.REFUSED})


class Channels(Protocol):
    """Carries calls over channels."""

    def call(self, call: Call) -> None: ...
    def settle(self, event: Answered) -> None: ...


class UrlOutbound:
    """Sends each call where its branch is. `observe` hears of every call to a URL, for the metrics and the alerts."""

    def __init__(
        self,
        channels: Channels,
        *,
        request_timeout_ms: int,
        observe: Callable[[UrlCall, CallResult, str], None],
    ) -> None:
        self._channels = channels
        self._request_timeout_ms = request_timeout_ms
        self._observe = observe
        self._http: UrlCaller | None = None
        self._grpc: UrlCaller | None = None

    def use(self, *, http: UrlCaller | None = None, grpc: UrlCaller | None = None) -> None:
        """What carries calls to URLs of which kind."""
        self._http = http or self._http
        self._grpc = grpc or self._grpc

    def call(self, call: Call) -> None:
        """Send it; an Answered follows."""
        if call.plan is None or not call.plan.by_url:
            self._channels.call(call)
            return
        try:
            branch = decode_branch(call.application_data or "")
            detail = decode_detail(call.detail)
        except msgspec.DecodeError as error:
            self._channels.settle(unanswered(call, CallResult.RETRY, f"not a branch with a URL: {error}", None))
            return
        url_call = self._url_call(call, branch, detail)
        caller = self._caller(url_call)
        if not url_call.url:
            self.settled(url_call, Verdict.DONE, "")
        elif caller is None:
            self.settled(url_call, Verdict.RETRY, f"nothing here calls {url_call.url}")
        else:
            caller.call(url_call)

    def settled(self, url_call: UrlCall, verdict: Verdict, text: str) -> None:
        """What a call to a URL came to."""
        call, result = url_call.call, _RESULTS[verdict]
        if result is CallResult.REFUSED and (call.branch_type, call.verb) not in _MAY_REFUSE:
            result = CallResult.RETRY
        if url_call.kind == WORKFLOW and result in _DECIDED:  # it decides by its submit, not by how it answers us
            result = CallResult.ONGOING
        if result is CallResult.REFUSED:
            text = f"url:{url_call.url} return failed: {text.strip().removesuffix(' FAILURE')} FAILURE"
        self._channels.settle(unanswered(call, result, text, url_call.url) if text else _answered(url_call, result))
        self._observe(url_call, result, text)

    async def close(self) -> None:
        """Let go of all connections."""
        for caller in (self._http, self._grpc):
            if caller is not None:
                await caller.close()

    # ---- parts ----

    def _url_call(self, call: Call, branch: UrlBranch, detail: Detail) -> UrlCall:
        op = _OPS.get((call.branch_type, call.verb)) or next(iter(branch.urls), "")  # a runner has one op only
        timeout_ms = detail.request_timeout_ms or self._request_timeout_ms
        return UrlCall(
            call,
            branch.urls.get(op, ""),
            call.gid or call.xid,
            _KINDS.get(call.branch_type) or call.kind,
            branch.id,
            op,
            branch.payload,
            detail.headers,
            timeout_ms / 1000,
            call.branch_type is BranchType.XA,
            detail.protocol,
        )

    def _caller(self, url_call: UrlCall) -> UrlCaller | None:
        return self._http if url_call.url.startswith(("http://", "https://")) else self._grpc


def _answered(url_call: UrlCall, result: CallResult) -> Answered:
    call = url_call.call
    return Answered(call.xid, call.branch_id, call.verb, call.attempt, result, None, url_call.url)
