"""A transaction as DTM's clients send it becomes a Begin: checked, its steps in the order in which they may run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from troth.core.events import Begin, NewStep
from troth.core.model import BranchType, OnTimeout, Plan, Terms
from troth.server.config import Config
from troth.server.grpc_extra import INSTALL, grpc_is_installed
from troth.server.outbound.grpc_url import method_of
from troth.server.outbound.http import target_of
from troth.server.outbound.http_request import check_headers
from troth.wire.dtm.branches import (
    ACTION,
    COMPENSATE,
    MSG_OP,
    RUNNER_ID,
    Detail,
    encode_branch,
    encode_detail,
    url_branch,
)
from troth.wire.dtm.custom import LONGEST_SECONDS, delay_s_of, orders_of, workflow_run
from troth.wire.dtm.messages import MSG, PROTOCOLS, SAGA, TRANS_TYPES, WORKFLOW, Trans
from troth.wire.dtm.results import BadInput
from troth.wire.dtm.views import Subscriber

MOST_STEPS = 1000
LONGEST_URL_BYTES = 8192
TOPIC = "topic://"
_ANSWER_MARGIN_MS = 2_000
"""The core takes a call for lost so long after its own time limit."""

_CALL_BACK_AFTER = 10
"""So many first pauses a workflow has before it is called back: it still runs, most likely, and would run twice."""

Subscribers = Mapping[str, Sequence[Subscriber]]


class _Target(msgspec.Struct):
    branch_id: str
    urls: dict[str, str]
    payload: bytes


class Planner:
    """Checks transactions and makes them events. Every complaint is a BadInput that names what is wrong."""

    def __init__(self, config: Config, next_id: Callable[[], int]) -> None:
        self._settings = config.dtm
        self._retry_min_ms = config.retry.min
        self._limits = config.limits
        self._next_id = next_id
        self._calls_grpc = grpc_is_installed()

    def check(self, trans: Trans) -> None:
        """What can be said of `trans` alone."""
        if trans.trans_type not in TRANS_TYPES:
            raise BadInput(f"trans_type is one of {', '.join(sorted(TRANS_TYPES))}, not {trans.trans_type!r}")
        if (trans.protocol or "") not in PROTOCOLS:
            raise BadInput(f"protocol is http, grpc or json-rpc, not {trans.protocol!r}")
        for name in ("timeout_to_fail", "request_timeout", "retry_interval"):
            seconds = getattr(trans, name) or 0
            if not 0 <= seconds <= LONGEST_SECONDS:
                raise BadInput(f"{name} is a number of seconds from 0 to {LONGEST_SECONDS}, not {seconds}")
        if not 0 <= (trans.retry_limit or 0) < 2**31:
            raise BadInput(f"retry_limit is a number of attempts, not {trans.retry_limit}")
        headers = trans.branch_headers or {}
        try:
            check_headers(headers)
        except ValueError as error:
            raise BadInput(f"branch_headers: {error}") from None
        limit = self._limits.application_data_bytes
        if sum(map(len, (trans.custom_data or "", trans.query_prepared or "", *headers, *headers.values()))) > limit:
            raise BadInput(f"custom_data, query_prepared and branch_headers: more than {limit} characters")

    def begin(self, trans: Trans, gid: str, xid: str, reply_to: object, *, submit: bool, topics: Subscribers) -> Begin:
        """The event. `topics` has the subscribers of each of `topics_of`."""
        kind = trans.trans_type or ""
        steps = self._steps(self._targets(trans, topics), trans) if kind in (SAGA, MSG) else ()
        runner = not submit and kind in (MSG, WORKFLOW) and bool(trans.query_prepared)
        if runner:
            steps = (*steps, self._runner(trans))
        request_ms = (trans.request_timeout or 0) * 1000 or self._settings.request_timeout
        interval_ms = self._first_interval_ms(trans)
        timeout_ms, on_timeout = self._timeout(trans, interval_ms, runner=runner)
        terms = Terms(
            gid,
            kind,
            encode_detail(self._detail(trans, request_ms)),
            on_timeout,
            interval_ms,
            trans.retry_limit + 1 if trans.retry_limit else 0,  # DTM counts the attempts after the first
            request_ms + _ANSWER_MARGIN_MS,
            delay_s_of(trans) * 1000,
        )
        wait = submit and bool(trans.wait_result)
        return Begin(xid, f"dtm {kind}", "dtm", "dtm", timeout_ms, reply_to, terms, steps, submit=submit, wait=wait)

    def check_url(self, url: str, protocol: str | None, what: str) -> None:
        """An empty URL is a call that succeeds; else it must be one that can be called."""
        if not url:
            return
        if len(url) > LONGEST_URL_BYTES or not url.isprintable():
            raise BadInput(f"{what}: expected a URL of at most {LONGEST_URL_BYTES} bytes without control characters")
        if protocol == "grpc" and not url.startswith(("http://", "https://")):
            self._check_grpc_url(url, what)
            return
        try:
            target_of(url)
        except ValueError as error:
            raise BadInput(f"{what}: {url!r}: expected {error}") from None

    def _check_grpc_url(self, url: str, what: str) -> None:
        if not self._calls_grpc:
            raise BadInput(f"{what}: {url!r}: this coordinator cannot call gRPC services: {INSTALL}")
        try:
            method_of(url)
        except ValueError as error:
            raise BadInput(f"{what}: {error}") from None

    def application_data(self, branch_id: str, urls: dict[str, str], payload: bytes) -> str:
        """What is kept of a branch. Raises BadInput where that is too much."""
        text = encode_branch(url_branch(branch_id, urls, payload))
        limit = self._limits.application_data_bytes
        if len(text) * 4 > limit and len(text.encode()) > limit:
            raise BadInput(f"branch {branch_id!r}: more than {limit} bytes of payload and URLs")
        return text

    # ---- steps ----

    def _targets(self, trans: Trans, topics: Subscribers) -> list[_Target]:
        targets = []
        payloads = _payloads(trans)
        for index, step in enumerate(trans.steps or ()):
            branch_id, payload = f"{index + 1:02d}", payloads[index]
            action, compensate = step.get(ACTION) or "", step.get(COMPENSATE) or ""
            if trans.trans_type == MSG and action.startswith(TOPIC):
                targets += _fan_out(branch_id, topics[action.removeprefix(TOPIC)], payload)
                continue
            self.check_url(action, trans.protocol, f"steps[{index}].{ACTION}")
            self.check_url(compensate, trans.protocol, f"steps[{index}].{COMPENSATE}")
            urls = {ACTION: action} if trans.trans_type == MSG else {ACTION: action, COMPENSATE: compensate}
            targets.append(_Target(branch_id, urls, payload))
        if len(targets) > MOST_STEPS:
            raise BadInput(f"{len(targets)} steps; the most are {MOST_STEPS}")
        return targets

    def _steps(self, targets: list[_Target], trans: Trans) -> tuple[NewStep, ...]:
        """A step's `seq` counts from 1 where its index counts from 0."""
        branch_type = BranchType.SAGA if trans.trans_type == SAGA else BranchType.MESSAGE
        before = orders_of(trans, len(targets))
        return tuple(
            NewStep(
                self._next_id(),
                branch_type,
                target.urls[ACTION],
                self.application_data(target.branch_id, target.urls, target.payload),
                Plan(by_url=True, after=tuple(earlier + 1 for earlier in before[index])),
            )
            for index, target in enumerate(targets)
        )

    def _runner(self, trans: Trans) -> NewStep:
        url = trans.query_prepared or ""
        self.check_url(url, trans.protocol, "query_prepared")
        op, payload = (MSG_OP, b"") if trans.trans_type == MSG else workflow_run(trans)
        data = self.application_data(RUNNER_ID, {op: url}, payload)
        return NewStep(self._next_id(), BranchType.RUNNER, url, data, Plan(by_url=True))

    # ---- terms ----

    def _first_interval_ms(self, trans: Trans) -> int:
        """From one attempt to the next, at first: as DTM chooses it."""
        own_ms = (trans.retry_interval or 0) * 1000
        to_fail_ms = (trans.timeout_to_fail or 0) * 1000
        usual_ms = self._settings.retry_interval or self._retry_min_ms
        if trans.trans_type == WORKFLOW and self._settings.retry_interval is None:
            usual_ms *= _CALL_BACK_AFTER
        return own_ms or (to_fail_ms if 0 < to_fail_ms < usual_ms else usual_ms)

    def _timeout(self, trans: Trans, interval_ms: int, *, runner: bool) -> tuple[int, OnTimeout]:
        kind, to_fail_ms = trans.trans_type, (trans.timeout_to_fail or 0) * 1000
        if kind == SAGA and not to_fail_ms:
            return LONGEST_SECONDS * 1000, OnTimeout.GO_ON
        if kind == WORKFLOW:
            return (interval_ms, OnTimeout.ASK) if runner else (LONGEST_SECONDS * 1000, OnTimeout.GO_ON)
        return to_fail_ms or self._settings.timeout_to_fail, OnTimeout.ASK if runner else OnTimeout.ROLL_BACK

    def _detail(self, trans: Trans, request_ms: int) -> Detail:
        return Detail(
            trans.protocol or "",
            trans.custom_data or "",
            trans.query_prepared or "",
            msgspec.json.encode(trans.options).decode(),
            dict(trans.branch_headers or {}),
            request_ms,
            trans.timeout_to_fail or 0,
        )


def topics_of(trans: Trans) -> list[str]:
    """The topics to which a message is sent, each once."""
    if trans.trans_type != MSG:
        return []
    actions = [step.get(ACTION) or "" for step in trans.steps or ()]
    return list(dict.fromkeys(url.removeprefix(TOPIC) for url in actions if url.startswith(TOPIC)))


def _fan_out(branch_id: str, subscribers: Sequence[Subscriber], payload: bytes) -> list[_Target]:
    if len(subscribers) == 1:
        return [_Target(branch_id, {ACTION: subscribers[0].url}, payload)]
    return [
        _Target(f"{branch_id}-{number:02d}", {ACTION: who.url}, payload)
        for number, who in enumerate(subscribers, start=1)
    ]


def _payloads(trans: Trans) -> list[bytes]:
    steps = trans.steps or []
    given = trans.bin_payloads
    if given is None:
        given = [text.encode() for text in trans.payloads or ()]
        given += [text.encode() for step in steps if (text := step.get("data"))]
    if given and len(given) != len(steps):
        raise BadInput(f"{len(steps)} steps with {len(given)} payloads")
    return given or [b""] * len(steps)
