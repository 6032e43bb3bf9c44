"""From the stored facts back to the `Global` that a coordinator works on."""

from __future__ import annotations

from collections.abc import Iterable

from troth.core.course import course_of
from troth.core.effects import AddBranch, MarkBranch, MarkGlobal, OpenGlobal
from troth.core.model import Branch, Global
from troth.core.rowkeys import LockTextError, parse_lock_text
from troth.stores.store import StoreCorrupt


def assemble(
    opened: OpenGlobal, marked: MarkGlobal | None, branches: Iterable[tuple[AddBranch, MarkBranch | None]]
) -> Global:
    """The transaction that these deltas describe: branches by seq, memory-only fields empty.

    `next_seq` is one more than the highest seq of a kept branch, which is all that the order of branches needs.
    """
    tx = Global(
        xid=opened.xid,
        name=opened.name,
        application=opened.application,
        group=opened.group,
        begin_ms=opened.begin_ms,
        timeout_ms=opened.timeout_ms,
        terms=opened.terms,
    )
    if marked is not None:
        tx.phase, tx.cause, tx.rollback_only = marked.phase, marked.cause, marked.rollback_only
        tx.reason = marked.reason
    for added, branch_marked in sorted(branches, key=lambda facts: facts[0].seq):
        branch = _branch(added, branch_marked)
        if branch.left:
            course_of(tx).finished[branch.branch_id] = branch
        else:
            tx.branches[branch.branch_id] = branch
        tx.next_seq = added.seq + 1
    return tx


def _branch(added: AddBranch, marked: MarkBranch | None) -> Branch:
    try:
        keys = parse_lock_text(added.resource_id, added.lock_text)
    except LockTextError as unclear:
        raise StoreCorrupt(f"branch {added.branch_id} of transaction {added.xid}: {unclear}") from unclear
    branch = Branch(
        branch_id=added.branch_id,
        seq=added.seq,
        branch_type=added.branch_type,
        resource_id=added.resource_id,
        lock_text=added.lock_text,
        keys=keys,
        application_data=added.application_data,
        auto_commit=added.auto_commit,
        client_id=added.client_id,
        lock_mode=added.lock_mode,
        plan=added.plan,
    )
    if marked is not None:
        branch.phase_one = marked.phase_one
        branch.application_data = marked.application_data
        branch.attempts = marked.attempts
        branch.frozen = marked.frozen
        branch.last_error = marked.last_error
        branch.last_worker = marked.last_worker
        branch.last_attempt_ms = marked.last_attempt_ms
        branch.next_due_ms = marked.next_due_ms
        branch.left, branch.ended, branch.epoch = marked.left, marked.ended, marked.epoch
        if marked.client_id is not None:
            branch.client_id = marked.client_id
    return branch
