"""What DTM's doors can do, whatever carries it: HTTP, JSON-RPC and gRPC call these (`wire/dtm/results.py` says how
they refuse). Transactions are those of the one core; the gid is the name that the user chose.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from types import MappingProxyType

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.calls import starts_ms
from troth.core.due import due_ms
from troth.core.model import BranchType, Global, Outcome, Phase, Plan
from troth.server.config import Config
from troth.server.engine import Engine
from troth.server.ids import XID_FORM
from troth.server.inbound import dtm_listing as listing
from troth.server.inbound import dtm_views as views
from troth.server.inbound.dtm_begin import Planner, Subscribers, topics_of
from troth.server.inbound.dtm_ids import BranchIds, ids_of
from troth.server.inbound.dtm_topics import Topics
from troth.server.waiters import FutureReply, NotStored
from troth.wire.dtm.branches import ACTION, CANCEL, COMMIT, CONFIRM, ROLLBACK
from troth.wire.dtm.messages import MSG, TCC, WORKFLOW, XA, Registration, Trans, clean_gid
from troth.wire.dtm.results import BadInput, Busy, Failure, NotFound, Ongoing
from troth.wire.dtm.views import KvPageView, PageView, ProgressView, QueryView, ResetView

CLIENT_ID = "dtm"
LONGEST_REASON = 4096
_DECIDED_UP = frozenset({Phase.FORWARD, Phase.COMMITTING})
_DOWN = frozenset({Phase.ROLLING_BACK, Phase.ROLLED_BACK})
_BRANCH_TYPES = MappingProxyType({TCC: BranchType.TCC, XA: BranchType.XA, MSG: BranchType.MESSAGE})
_MAY_ABORT = frozenset({TCC, XA, MSG})
"""A saga undoes itself, and only the runner of a workflow knows what there is to undo."""


class Operations:
    """All methods run on the engine's loop."""

    def __init__(
        self, engine: Engine, config: Config, *, address: Callable[[], str], overloaded: Callable[[], str | None]
    ) -> None:
        """`address`: what xids begin with. `overloaded`: why nothing new may begin now, or None."""
        self._engine = engine
        self._address = address
        self._overloaded = overloaded
        self._timeout_to_fail_ms = config.dtm.timeout_to_fail
        self._planner = Planner(config, engine.ids.next)
        self._branch_ids = BranchIds()
        self._topics = Topics(engine.store, engine.clock.now_ms)

    def new_gid(self) -> str:
        """A name that nobody has."""
        return _short_uuid(uuid.uuid4().int)

    # ---- the life of a transaction ----

    async def prepare(self, trans: Trans) -> None:
        """Open it; again, as long as it is only prepared, changes nothing."""
        gid = self._check(trans)
        known = await self._begin(trans, gid, submit=False)
        if isinstance(known, fx.Known):
            self._check_kind(known.xid, trans)
            if known.standing.phase is not Phase.OPEN:
                raise Failure(f"current status '{views.STATUSES[known.standing.phase]}', cannot prepare. FAILURE")

    async def submit(self, trans: Trans) -> None:
        """Run it, or, if it was prepared, go on with what was prepared. With wait_result the answer is how it ends."""
        gid = self._check(trans)
        if trans.trans_type == WORKFLOW:
            await self._end_workflow(gid, trans)
            return
        xid = await self._xid_in_xid_form(gid)
        result = await self._status(xid) if xid else await self._begin(trans, gid, submit=True)
        if isinstance(result, fx.Known):
            await self._submit_known(result.xid, result.standing.phase, trans)
        elif isinstance(result, fx.Stands) and xid:
            await self._submit_known(xid, result.standing.phase, trans)
        elif isinstance(result, fx.Stands):
            await self._judge(result)
        elif not isinstance(result, fx.Begun):
            raise NotFound(f"no transaction {gid!r} is known")

    async def abort(self, trans: Trans) -> None:
        """Roll it back, if it is only prepared: a tcc, an xa or a message."""
        self._planner.check(trans)
        gid = clean_gid(trans.gid)
        xid = await self._known_xid(gid)
        self._check_kind(xid, trans)
        result = await self._status(xid)
        phase = result.standing.phase if isinstance(result, fx.Stands) else None
        if trans.trans_type not in _MAY_ABORT:
            words = f"trans type: '{trans.trans_type}' current status '{_status_name(phase)}'"
            raise Failure(f"{words}, cannot abort. FAILURE")
        if phase is Phase.OPEN:
            reply = FutureReply()
            reason = (trans.rollback_reason or "")[:LONGEST_REASON] or None
            result = await self._ask(ev.Rollback(xid, reply, wait=bool(trans.wait_result), reason=reason), reply)
            phase = result.standing.phase if isinstance(result, fx.Stands) else None
        if phase not in _DOWN:
            raise Failure(f"current status '{_status_name(phase)}', cannot abort. FAILURE")

    async def register_branch(self, registration: Registration) -> None:
        """Add a branch to a transaction that is prepared, or tell how a step of a workflow ended."""
        if not registration.branch_id:
            raise BadInput("branch_id must not be empty")
        xid = await self._engine.find(registration.gid)
        if xid is None:
            raise Failure(f"no trans with gid: {registration.gid} status: prepared found FAILURE")
        if registration.trans_type == WORKFLOW:
            self._check_takes(xid, registration)
            result = await self._record(xid, registration)
        elif registration.trans_type in _BRANCH_TYPES:
            self._check_takes(xid, registration)
            result = await self._register(xid, registration)
        else:
            raise BadInput(f"a branch is of tcc, xa, msg or workflow, not {registration.trans_type!r}")
        decided = isinstance(result, fx.Stands) and result.standing.phase is not Phase.OPEN
        if decided or isinstance(result, fx.NotActive | fx.Unknown):
            raise Failure(f"no trans with gid: {registration.gid} status: prepared found FAILURE")

    async def prepare_workflow(self, trans: Trans) -> ProgressView:
        """Open it, or show how far it has come."""
        gid = self._check(trans)
        if trans.trans_type != WORKFLOW:
            raise BadInput(f"a workflow is of trans_type workflow, not {trans.trans_type!r}")
        result = await self._begin(trans, gid, submit=False)
        if not isinstance(result, fx.Known | fx.Begun):
            raise Busy("the coordinator did not begin it")
        self._check_kind(result.xid, trans)
        shown = await self._show(result.xid)
        if shown.transaction is None:
            raise NotFound(f"no transaction {gid!r} is known")
        return ProgressView(shown.transaction, shown.branches)

    # ---- looking, and an operator's ----

    async def query(self, gid: str) -> QueryView:
        """The transaction with its branches, ended or not."""
        xid = await self._engine.find(clean_gid(gid))
        return QueryView(None, []) if xid is None else await self._show(xid)

    async def force_stop(self, gid: str) -> None:
        """End it as failed, at once; nothing is compensated."""
        reply = FutureReply()
        result = await self._ask(ev.Stop(await self._known_xid(clean_gid(gid)), reply), reply)
        if isinstance(result, fx.NotActive):
            raise Failure(f"global transaction already finished: '{_status_name(result.standing.phase)}'. FAILURE")

    async def reset_next_cron_time(self, gid: str) -> None:
        """Try what is left to be tried now. Where nothing is, that is no mistake."""
        await self._retry(await self._known_xid(clean_gid(gid)))

    async def reset_cron_time(self, timeout_s: int | None, limit: int) -> ResetView:
        """Try now what would be tried only after `timeout_s`; `limit` bounds how many transactions.

        What waits for its time and not for another attempt is passed over: who asks until nothing remains comes to an
        end.
        """
        wait_ms = 3 * self._timeout_to_fail_ms if timeout_s is None else timeout_s * 1000
        later_ms = self._engine.clock.now_ms() + wait_ms
        late = [
            tx.xid
            for tx in self._engine.transactions().values()
            if tx.terms is not None and tx.terms.kind and (due_ms(tx) or 0) > later_ms
        ]
        retried = 0
        for seen, xid in enumerate(late):
            if retried == limit:
                return ResetView(seen < len(late), retried)
            retried += await self._retry(xid)
        return ResetView(False, retried)

    async def all(self, wanted: listing.Wanted, limit: int, position: str) -> PageView:
        """A page of transactions."""
        return await listing.page_of(self._engine, wanted, limit, position)

    # ---- topics ----

    async def subscribe(self, topic: str, url: str, remark: str) -> None:
        """`url` gets what is sent to `topic` from now on."""
        self._check_running()
        await self._topics.subscribe(topic, url, remark)

    async def unsubscribe(self, topic: str, url: str) -> None:
        """`url` gets nothing of it any more."""
        self._check_running()
        await self._topics.unsubscribe(topic, url)

    async def delete_topic(self, topic: str) -> None:
        """Nobody does."""
        self._check_running()
        await self._topics.delete(topic)

    async def query_kv(self, cat: str, key: str) -> KvPageView:
        """A kept value; topics are of cat "topics"."""
        self._check_running()
        return await self._topics.query(cat, key)

    async def scan_kv(self, cat: str, position: str, limit: int) -> KvPageView:
        """A page of them."""
        self._check_running()
        return await self._topics.scan(cat, position, limit)

    # ---- parts ----

    def _check(self, trans: Trans) -> str:
        self._planner.check(trans)
        return clean_gid(trans.gid)

    async def _begin(self, trans: Trans, gid: str, *, submit: bool) -> fx.Result:
        """`Known` if there is one of that name."""
        xid = await self._xid_in_xid_form(gid)
        if xid is not None:
            result = await self._status(xid)
            return fx.Known(xid, result.standing) if isinstance(result, fx.Stands) else result
        reply = FutureReply()
        new_xid = f"{self._address()}:{self._engine.ids.next()}"
        try:
            topics = await self._subscribers(trans)
            begin = self._planner.begin(trans, gid, new_xid, reply, submit=submit, topics=topics)
        except (BadInput, NotFound):  # the steps of one that is known do not count, and its topics may be gone by now
            known = await self._known(gid)
            if known is None:
                raise
            return known
        reason = self._overloaded()
        if reason is not None and await self._engine.find(gid) is None:  # what has begun may end
            raise Busy(reason)
        return await self._ask(begin, reply)

    async def _subscribers(self, trans: Trans) -> Subscribers:
        return {topic: await self._topics.subscribers(topic) for topic in topics_of(trans)}

    async def _known(self, gid: str) -> fx.Known | None:
        xid = await self._engine.find(gid)
        result = None if xid is None else await self._status(xid)
        return fx.Known(result.standing.xid, result.standing) if isinstance(result, fx.Stands) else None

    async def _xid_in_xid_form(self, gid: str) -> str | None:
        """A name that looks like one of the coordinator's own must be one. None if it does not look so."""
        if not XID_FORM.fullmatch(gid):
            return None
        xid = await self._engine.find(gid)
        if xid is None:
            raise BadInput(f"gid {gid!r} looks like an xid of the coordinator, and is none: choose another")
        return xid

    async def _known_xid(self, gid: str) -> str:
        xid = await self._engine.find(gid)
        if xid is None:
            raise NotFound(f"no transaction {gid!r} is known")
        return xid

    async def _retry(self, xid: str) -> bool:
        """True if something of it is tried now. A delay is kept, and a message that may still be submitted is not asked
        for: the answer would be no, for good.
        """
        tx, now_ms = self._engine.transactions().get(xid), self._engine.clock.now_ms()
        if tx is not None and self._kind_of(xid) == MSG:
            only_prepared = tx.phase is Phase.OPEN and now_ms < tx.deadline_ms
            if only_prepared or now_ms < starts_ms(tx):
                return False
        reply = FutureReply()
        return isinstance(await self._ask(ev.Retry(xid, reply), reply), fx.Retrying)

    def _kind_of(self, xid: str) -> str:
        """Empty for one that a Seata client began."""
        tx = self._in_memory(xid)
        return tx.terms.kind if tx is not None and tx.terms is not None else ""

    def _check_kind(self, xid: str, trans: Trans) -> None:
        """Two transactions of different kinds under one name are a mistake of whoever chose the name."""
        kind = self._kind_of(xid)
        if kind and kind != trans.trans_type:
            raise BadInput(f"gid {trans.gid!r} is the name of a {kind}, not of a {trans.trans_type}")

    def _check_takes(self, xid: str, registration: Registration) -> None:
        """A message may go with the decision of a tcc or an xa; else branches are of their transaction's kind."""
        kind, added = self._kind_of(xid), registration.trans_type
        if kind and kind != added and not (added == MSG and kind in (TCC, XA)):
            raise BadInput(f"gid {registration.gid!r} is the name of a {kind}, which takes no branch of a {added}")

    async def _submit_known(self, xid: str, phase: Phase, trans: Trans) -> None:
        self._check_kind(xid, trans)
        if phase is Phase.OPEN or (phase in _DECIDED_UP and trans.wait_result):
            reply = FutureReply()
            result = await self._ask(ev.Commit(xid, reply, wait=bool(trans.wait_result)), reply)
            if isinstance(result, fx.Stands) and trans.wait_result:
                await self._judge(result)
            if not isinstance(result, fx.Stands | fx.NotActive):
                raise NotFound(f"no transaction {trans.gid!r} is known")
            phase = result.standing.phase
            self._branch_ids.forget(xid)
        if phase in _DOWN:
            raise Failure(f"current status '{views.STATUSES[phase]}', cannot sumbmit. FAILURE")

    async def _judge(self, result: fx.Stands) -> None:
        """What a caller that waits is told: done, failed with the reason, or not yet."""
        phase = result.standing.phase
        if phase is Phase.COMMITTED:
            return
        if phase not in _DOWN:
            raise Ongoing(f"status '{views.STATUSES[phase]}': not ended yet; query tells how it goes on")
        tx = await self._load(result.standing.xid)
        raise Failure((tx and views.rollback_reason(tx)) or "rolled back")

    async def _end_workflow(self, gid: str, trans: Trans) -> None:
        extra = trans.req_extra or {}
        status = extra.get("status")
        if status not in ("succeed", "failed"):
            raise BadInput(f"req_extra.status of a workflow is succeed or failed, not {status!r}")
        xid = await self._known_xid(gid)
        self._check_kind(xid, trans)
        reply = FutureReply()
        wanted = Phase.COMMITTED if status == "succeed" else Phase.ROLLED_BACK
        words = extra.get("result" if status == "succeed" else "rollback_reason") or None
        self._check_words(words)
        kind = ev.Commit if status == "succeed" else ev.Rollback
        result = await self._ask(kind(xid, reply, wait=False, reason=words), reply)
        phase = result.standing.phase if isinstance(result, fx.Stands | fx.NotActive) else None
        down = phase in _DOWN
        if phase is None or down != (wanted is Phase.ROLLED_BACK):
            raise Failure(f"current status '{_status_name(phase)}', cannot sumbmit. FAILURE")

    @staticmethod
    def _check_words(words: str | None) -> None:
        if words is not None and len(words.encode()) > 64_000:
            raise BadInput("result and rollback_reason have at most 64000 bytes")

    # ---- branches ----

    async def _register(self, xid: str, registration: Registration) -> fx.Result:
        urls = _urls_of(registration)
        tx = self._engine.transactions().get(xid)
        either = tx is None or tx.terms is None  # one that a Seata client began takes branches of both protocols
        for op, url in urls.items():
            self._planner.check_url(url, "grpc" if either else views.protocol_of(tx), op)
        text = self._planner.application_data(registration.branch_id, urls, registration.payload)
        same = None if tx is None else self._branch_ids.is_same(tx, registration.branch_id, text)
        if same is False:
            raise BadInput(f"branch {registration.branch_id!r} is registered already, with other data")
        if same:
            return await self._registered_before(xid, registration.branch_id)
        reply = FutureReply()
        event = ev.Register(
            xid,
            self._engine.ids.next(),
            _BRANCH_TYPES[registration.trans_type],
            next(iter(urls.values())),
            lock_text="",
            keys=(),
            application_data=text,
            auto_commit=False,
            client_id=CLIENT_ID,
            channel=None,
            may_wait=False,
            reply_to=reply,
            plan=Plan(by_url=True),
        )
        result: fx.Result | None = None
        try:
            result = await self._ask(event, reply)
        finally:
            if not isinstance(result, fx.Registered):
                self._branch_ids.forget(xid)
        return result

    async def _registered_before(self, xid: str, branch_id: str) -> fx.Result:
        """It was sent again: answered when the first one is durable, or is known to have failed."""
        result = await self._status(xid)
        tx = self._engine.transactions().get(xid)
        if tx is not None and tx.phase is Phase.OPEN and branch_id not in ids_of(tx):
            raise BadInput(f"branch {branch_id!r} was sent before, and could not be stored")
        return result

    async def _record(self, xid: str, registration: Registration) -> fx.Result:
        op, status = registration.data.get("op", ""), registration.data.get("status", "")
        if status not in ("succeed", "failed") or not op:
            raise BadInput(f"a step of a workflow has an op, and status succeed or failed, not {op!r}, {status!r}")
        text = self._planner.application_data(registration.branch_id, {op: ""}, registration.payload)
        failed = status == "failed"
        key = f"{registration.branch_id}-{op}"
        reply = FutureReply()
        event = ev.Record(xid, None, self._engine.ids.next(), key, text, failed, reply)
        result = await self._ask(event, reply)
        if isinstance(result, fx.Recorded) and (result.application_data, result.failed) != (text, failed):
            raise BadInput(f"branch {registration.branch_id!r} {op} is recorded already, with another result")
        return result

    # ---- asking the engine ----

    async def _status(self, xid: str) -> fx.Result:
        reply = FutureReply()
        return await self._ask(ev.Status(xid, reply), reply)

    def _check_running(self) -> None:
        if not self._engine.running:
            raise Busy("this coordinator is not the one that leads, or is stopping")

    async def _ask(self, event: ev.Event, reply: FutureReply) -> fx.Result:
        self._check_running()
        self._engine.submit(event)
        try:
            return await reply.result
        except NotStored as error:
            raise BadInput(f"it has not happened, the store does not take it: {error}") from error

    async def _show(self, xid: str) -> QueryView:
        """As it is now, and not before all of that is durable."""
        tx = await self._load(xid)
        shown = QueryView(None, []) if tx is None else QueryView(views.view_global(tx), views.view_branches(tx))
        await self._status(xid)
        return shown

    def _in_memory(self, xid: str) -> Global | Outcome | None:
        return self._engine.transactions().get(xid) or self._engine.outcome_in_memory(xid)

    async def _load(self, xid: str) -> Global | Outcome | None:
        return self._in_memory(xid) or await self._engine.store.outcome(xid)


def _urls_of(registration: Registration) -> dict[str, str]:
    """The URL of each op. A message is delivered if, and only if, the transaction commits."""
    data = registration.data
    if registration.trans_type == TCC:
        return {CONFIRM: data.get(CONFIRM, ""), CANCEL: data.get(CANCEL, "")}
    ops = (COMMIT, ROLLBACK) if registration.trans_type == XA else (ACTION,)
    return dict.fromkeys(ops, data.get("url", ""))


def _status_name(phase: Phase | None) -> str:
    return "unknown" if phase is None else views.STATUSES[phase]


_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def _short_uuid(number: int) -> str:
    """22 characters of an alphabet without look-alikes, as DTM's own gids."""
    digits = []
    for _ in range(22):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(digits)
