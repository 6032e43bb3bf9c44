"""When a transaction wants to be looked at next: derived from its facts, never stored (design/coordinator §1)."""

from __future__ import annotations

from troth.core.model import Branch, Global, Phase


def front(tx: Global) -> list[Branch]:
    """The branches that may be asked now: all on commit; on rollback the newest of each resource.

    A retrying or frozen branch holds back only the older ones of its resource (design/at.md §4).
    """
    if tx.phase is Phase.COMMITTING:
        return list(tx.branches.values())
    newest: dict[str, Branch] = {}
    for branch in tx.branches.values():
        rival = newest.get(branch.resource_id)
        if rival is None or rival.seq < branch.seq:
            newest[branch.resource_id] = branch
    return list(newest.values())


def due_ms(tx: Global) -> int | None:
    """The next moment at which `tx` wants a Due event: its timeout, a retry, an overdue answer, the end of a wait."""
    if tx.phase is Phase.OPEN:
        return min([tx.deadline_ms, *(w.until_ms for w in tx.waiting.values())]) if tx.waiting else tx.deadline_ms
    if not tx.branches:
        return tx.begin_ms
    times = [listener.until_ms for listener in tx.listeners]
    asked_later = False
    for branch in tx.branches.values():
        if branch.answer_due_ms is not None:
            times.append(branch.answer_due_ms)
        elif branch.next_due_ms is not None:
            asked_later = True
    if asked_later:
        times += [branch.next_due_ms for branch in front(tx) if branch.next_due_ms is not None]
    return min(times, default=None)
