"""XA: names of branches, what phase two does with them, and what the two databases' phase one share.

A branch is prepared in the database, which keeps it (and its row locks) over any crash, until phase two ends it from a
connection of its own. So phase two must tell "ended before" from "never prepared" and "not prepared *yet*" by facts:
PostgreSQL knows the fate of every transaction number (`txid_status`); on MySQL and MariaDB a user lock, the *guard*, is
held from before the registration until the branch is prepared or gone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from troth.client.errors import BranchFailed, NotSupported
from troth.client.flow import Flow, query, tell
from troth.client.modes.frozen import Frozen
from troth.wire.seata.enums import BranchStatus, BranchType, ResultCode
from troth.wire.seata.messages import (
    BranchRegisterRequest,
    BranchRegisterResponse,
    BranchReportRequest,
    BranchReportResponse,
)

FORMAT_ID = 9752
"""What Java Seata writes in its XA ids."""
GID_PREFIX = "troth/"
LONGEST_GTRID = 64
"""Bytes, by the XA standard."""
_UNDEFINED_OBJECT = "42704"
_XAER_NOTA = 1397
GUARD_WAIT_S = 2


class NotYet(Exception):
    """The branch cannot be ended now; the coordinator asks again."""


# --- names ---


def postgres_gid(xid: str, branch_id: int) -> str:
    """The name of a prepared branch on PostgreSQL. The coordinator's address is part of the xid."""
    return f"{GID_PREFIX}{xid}/{branch_id}"


def parse_gid(gid: str) -> tuple[str, int] | None:
    """xid and branch id of a `postgres_gid`; None: it is not one of ours."""
    xid, _, branch_id = gid.removeprefix(GID_PREFIX).rpartition("/")
    if not gid.startswith(GID_PREFIX) or not xid or not branch_id.isdecimal():
        return None
    return xid, int(branch_id)


def mysql_xid(xid: str, branch_id: int) -> str:
    """The name of a branch on MySQL as SQL has it: gtrid, bqual and format as Java Seata writes them."""
    return f"X'{xid.encode().hex()}',X'{f'-{branch_id}'.encode().hex()}',{FORMAT_ID}"


def parse_recovered(format_id: object, gtrid_length: object, data: object) -> tuple[str, int] | None:
    """xid and branch id of a row of XA RECOVER; None: it is not Seata's."""
    raw = data if isinstance(data, bytes) else str(data).encode("latin-1", "replace")
    cut = int(str(gtrid_length))
    gtrid, bqual = raw[:cut].decode("utf-8", "replace"), raw[cut:].decode("utf-8", "replace")
    if str(format_id) != str(FORMAT_ID) or gtrid.count(":") < 2 or not bqual[1:].isdecimal() or bqual[0] != "-":
        return None
    return gtrid, int(bqual[1:])


def quoted(text: str) -> str:
    """An SQL literal. (`%` is doubled, as in every text of a flow.)"""
    return "'" + text.replace("'", "''").replace("%", "%%") + "'"


# --- what travels with the branch ---


@dataclass(frozen=True, slots=True)
class BranchFacts:
    """A branch's `applicationData`: what phase two needs to know of phase one.

    txid: PostgreSQL's number of the local transaction. guard: the user lock on MySQL. reports: the promise that a
    prepared branch will be reported; our coordinator rolls the whole back if it is asked to commit without that report
    (Java's branches promise nothing). prepared, ended: whether phase one has reported that it prepared the branch, or
    that there is nothing (left) to be done.
    """

    txid: str | None = None
    guard: str | None = None
    reports: bool = False
    prepared: bool = False
    ended: bool = False

    def text(self) -> str:
        """As JSON, without what is not set."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return json.dumps({name: value for name, value in values.items() if value})

    @classmethod
    def parse(cls, text: str | None) -> BranchFacts:
        """What `text` gave. Raises NotYet: it is not ours (a branch of Java's, which has to end it)."""
        try:
            values = json.loads(text or "null")
        except ValueError:
            values = None
        if not isinstance(values, dict) or not {"txid", "guard", "ended"} & set(values):
            raise NotYet(f"this is not a branch of ours: its applicationData is {(text or '')[:200]!r}")
        return cls(
            txid=str(values["txid"]) if "txid" in values else None,
            guard=str(values["guard"]) if "guard" in values else None,
            reports=bool(values.get("reports")),
            prepared=bool(values.get("prepared")),
            ended=bool(values.get("ended")),
        )


# --- phase two ---


def end_on_postgres(xid: str, branch_id: int, facts: BranchFacts, *, commit: bool) -> Flow[None]:
    """COMMIT PREPARED or ROLLBACK PREPARED; done before counts as done.

    Raises:
        NotYet: phase one still runs. Frozen: it ended the other way, or nobody knows how. And the driver's errors.
    """
    if facts.ended:
        return
    verb, wanted = ("COMMIT", "committed") if commit else ("ROLLBACK", "aborted")
    try:
        yield from query(f"{verb} PREPARED {quoted(postgres_gid(xid, branch_id))}")
    except Exception as error:
        if getattr(error, "sqlstate", None) != _UNDEFINED_OBJECT:
            raise
    else:
        return
    if facts.txid is None:
        raise NotYet("it is not prepared, and its transaction number is not known")
    found = yield from query("SELECT txid_status(%s::bigint)", (facts.txid,))
    status = found.rows[0][0]
    if status == wanted:
        return
    if status == "in progress":
        raise NotYet("its phase one still runs in the database")
    what = f"is {status}" if status else "is too old for the database to know how it ended"
    raise Frozen(f"it cannot be {verb.lower()}ed: it is not prepared, and its local transaction {facts.txid} {what}")


def end_on_mysql(xid: str, branch_id: int, facts: BranchFacts, *, commit: bool) -> Flow[None]:
    """XA COMMIT or XA ROLLBACK; done before counts as done.

    Raises:
        NotYet: phase one still runs. Frozen: it was never prepared. And the driver's errors.
    """
    if facts.ended or (yield from _tried(xid, branch_id, commit=commit)):
        return
    guard = quoted(facts.guard or "")
    free = yield from query(f"SELECT GET_LOCK({guard}, {GUARD_WAIT_S})")
    if free.rows[0][0] != 1:
        raise NotYet("its phase one still runs in the database")
    yield from query(f"DO RELEASE_LOCK({guard})")
    # Nobody can prepare it any more; it may have been prepared since the first try, though.
    if (yield from _tried(xid, branch_id, commit=commit)):
        return
    if commit and not facts.prepared:
        raise Frozen("it cannot be committed: it was never prepared")


def _tried(xid: str, branch_id: int, *, commit: bool) -> Flow[bool]:
    try:
        yield from query(f"XA {'COMMIT' if commit else 'ROLLBACK'} {mysql_xid(xid, branch_id)}")
    except Exception as error:
        if error.args[:1] != (_XAER_NOTA,):
            raise
        return False
    return True


# --- phase one, what both databases share ---


def ask_for_branch(
    xid: str, resource_id: str, facts: BranchFacts, lock_text: str | None = None, *, autocommit: bool = True
) -> Flow[BranchRegisterResponse]:
    """Ask for a branch that will report when it is prepared (or of which nothing is to be ended); the answer.

    `autocommit`, of a branch with row locks: whether its statement runs again, from its begin, where a row is held.
    """
    data = replace(facts, reports=not facts.ended).text()
    if not autocommit:
        data = json.dumps({**json.loads(data), "autoCommit": False})
    request = BranchRegisterRequest(xid, BranchType.XA, resource_id, lock_text, data)
    return (yield from tell(request, BranchRegisterResponse))


def register(xid: str, resource_id: str, facts: BranchFacts) -> Flow[int]:
    """Register a branch that will report when it is prepared; gives its id. Raises BranchFailed: it was refused."""
    answer = yield from ask_for_branch(xid, resource_id, facts)
    if answer.result_code is not ResultCode.Success:
        code = answer.transaction_exception_code.name
        raise BranchFailed(f"the coordinator refused the branch of {xid}: {answer.msg} ({code})")
    return answer.branch_id


def report(xid: str, branch_id: int, resource_id: str, status: BranchStatus, facts: BranchFacts) -> Flow[None]:
    """Tell how phase one went. Raises BranchFailed: the coordinator does not want to know (any more)."""
    request = BranchReportRequest(xid, branch_id, status, resource_id, facts.text(), BranchType.XA)
    answer = yield from tell(request, BranchReportResponse)
    if answer.result_code is not ResultCode.Success:
        code = answer.transaction_exception_code.name
        raise BranchFailed(f"the coordinator refused the report of branch {branch_id} of {xid}: {answer.msg} ({code})")


def report_prepared(xid: str, branch_id: int, resource_id: str, facts: BranchFacts) -> Flow[None]:
    """Keep the promise of `register`: the branch is prepared. Raises as `report`."""
    yield from report(xid, branch_id, resource_id, BranchStatus.PhaseOne_Done, replace(facts, prepared=True))


def report_failure(error: BaseException, xid: str, branch_id: int, resource_id: str, facts: BranchFacts) -> Flow[None]:
    """Report PhaseOne_Failed; if that cannot be done, it is noted on `error`."""
    try:
        yield from report(xid, branch_id, resource_id, BranchStatus.PhaseOne_Failed, facts)
    except Exception as second:  # noqa: BLE001 - the first error is the one to tell
        error.add_note(f"The coordinator does not know of it: {second}.")


def strange(mine: str, now: str | None) -> NotSupported:
    """The error for a local transaction that does not lie inside the global one of now."""
    other = "there is none now" if now is None else f"now it is {now}"
    return NotSupported(
        f"the open local transaction belongs to the global transaction {mine}, but {other}.",
        "Commit or roll back the local transaction before the global one ends.",
    )
