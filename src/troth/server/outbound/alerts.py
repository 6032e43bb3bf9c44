"""The web hook that is told of transactions that do not get on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from troth.core.events import CallResult
from troth.core.model import Global
from troth.server.config import Dtm
from troth.server.inbound.dtm_views import STATUSES
from troth.server.logs import get_logger
from troth.server.outbound.http import HttpCaller, target_of
from troth.server.outbound.http_link import Answer
from troth.server.outbound.http_request import request_bytes
from troth.server.outbound.url_calls import UrlCall

log = get_logger("troth.dtm")

_TIMEOUT_S = 5.0
_MOST_AT_ONCE = 100


class Alert(msgspec.Struct):
    """What is posted, in DTM's words. `retry_count`: how often the pause has doubled."""

    gid: str
    status: str
    branch: str
    error: str
    retry_count: int


class Alerts:
    """Posts an alert at each failure of a branch from number `alert_retry_limit` on: its pause has doubled so often."""

    def __init__(self, settings: Dtm, caller: HttpCaller, transactions: Callable[[], Mapping[str, Global]]) -> None:
        self._url = settings.alert_web_hook
        self._limit = settings.alert_retry_limit
        self._caller = caller
        self._transactions = transactions
        self._out = 0

    def observe(self, url_call: UrlCall, result: CallResult, text: str) -> None:
        """A call has come back, and the core has counted it."""
        if self._url is None or result is not CallResult.RETRY:
            return
        tx = self._transactions().get(url_call.call.xid)
        branch = None if tx is None else tx.branches.get(url_call.call.branch_id)
        if tx is not None and branch is not None and branch.attempts >= self._limit:
            self._post(Alert(url_call.gid, STATUSES[tx.phase], url_call.branch_id, text, branch.attempts))

    def _post(self, alert: Alert) -> None:
        if self._url is None or self._out >= _MOST_AT_ONCE:
            return
        target = target_of(self._url)
        body = msgspec.json.encode(alert)
        data = request_bytes(target, target.query, "POST", body, {}, content_type="application/json")
        self._out += 1
        self._caller.pool.send(target.origin, data, _TIMEOUT_S, self._posted)

    def _posted(self, answer: Answer | None, reason: str) -> None:
        self._out -= 1
        if answer is None or answer.status >= 300:
            log.warning("the alert web hook did not take it", reason=reason or f"status {answer and answer.status}")
