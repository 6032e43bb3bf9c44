"""Where a coordinator can die: around each kind of durable write, among its effects, in recovery."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

from troth.core.effects import AddBranch, Answer, DropBranch, EndGlobal, MarkBranch, MarkGlobal, OpenGlobal, Write
from troth.core.model import Phase
from troth.stores.sqlite_journal import Entry, unpack
from troth.stores.store import Batch, SharedStore
from troth.testing.crash import seams
from troth.testing.crash.point import Hit, Point, Role
from troth.testing.crash.seams import Attach

_STORE = "troth.server.app:open_store"
_FLUSH = "troth.server.inbound.seata_link:SeataLink.flush"

WRITES: tuple[tuple[str, str, Callable[[Write], bool]], ...] = (
    ("begin", "a new global transaction", lambda write: isinstance(write, OpenGlobal)),
    ("register", "a branch and its row locks", lambda write: isinstance(write, AddBranch)),
    ("report", "a report on a branch's phase one", lambda write: isinstance(write, MarkBranch) and not _attempt(write)),
    ("attempt", "a phase two that came to nothing", lambda write: isinstance(write, MarkBranch) and _attempt(write)),
    ("vote", "a rollback-only vote", lambda write: isinstance(write, MarkGlobal) and write.phase is Phase.OPEN),
    ("commit-decision", "the decision to commit", lambda write: _decides(write, Phase.COMMITTING)),
    ("rollback-decision", "the decision to roll back", lambda write: _decides(write, Phase.ROLLING_BACK)),
    ("branch-end", "the end of a branch", lambda write: isinstance(write, DropBranch)),
    ("global-end", "the end of a global transaction", lambda write: isinstance(write, EndGlobal)),
)
"""Every kind of durable write: its name, what it says, how to know it."""


def _attempt(write: MarkBranch) -> bool:
    return write.last_error is not None


def _decides(write: Write, phase: Phase) -> bool:
    return isinstance(write, MarkGlobal) and write.phase is phase


# ---- the store: whichever it is ----


def _on_store(method: str, hook: Callable[[Any, Hit], Any]) -> Attach:
    """Hook `method` of the store that the coordinator opens."""

    def attach(hit: Hit) -> None:
        def make(original: Any) -> Any:
            def opened(*args: Any, **kwargs: Any) -> Any:
                store = original(*args, **kwargs)
                setattr(store, method, hook(getattr(store, method), hit))
                return store

            return opened

        seams.function(_STORE, make)

    return attach


def _before_write(holds: Callable[[Write], bool]) -> Attach:
    def when(batch: Batch, *_: object) -> bool:
        return any(map(holds, batch.writes))

    return _on_store("append", lambda append, hit: seams.before_await(append, hit, when))


def _after_write(holds: Callable[[Write], bool]) -> Attach:
    def when(_: object, batch: Batch, *__: object) -> bool:
        return any(map(holds, batch.writes))

    return _on_store("append", lambda append, hit: seams.after_await(append, hit, when))


def _not_committed(hit: Hit) -> None:
    """The store's server or file has the decision in a transaction, which has not been committed.

    The stores' own are as short as one statement, so the hook puts one around it.
    """
    seams.function("troth.stores.sqlite_journal:insert", lambda insert: _in_sqlite(insert, hit))
    seams.function(_STORE, lambda open_store: _in_postgres(open_store, hit))


def _in_sqlite(original: Any, hit: Hit) -> Any:
    def insert(connection: Any, entry: Entry) -> None:
        if not any(_decides(write, Phase.COMMITTING) for write in unpack(entry)):
            original(connection, entry)
            return
        connection.execute("BEGIN IMMEDIATE")
        original(connection, entry)
        hit()
        connection.execute("COMMIT")

    return insert


def _in_postgres(original: Any, hit: Hit) -> Any:
    def opened(*args: Any, **kwargs: Any) -> Any:
        store = original(*args, **kwargs)
        if isinstance(store, SharedStore):
            _put_a_transaction_around(store, hit)
        return store

    return opened


def _put_a_transaction_around(store: Any, hit: Hit) -> None:
    append, use = store.append, store._writer.use
    deciding: list[Batch] = []

    async def noted(batch: Batch) -> None:
        deciding[:] = [batch] if any(_decides(write, Phase.COMMITTING) for write in batch.writes) else []
        await append(batch)

    async def used(work: Callable[[Any], Awaitable[Any]], within_s: float | None) -> Any:
        async def in_transaction(connection: Any) -> Any:
            async with connection.transaction():
                result = await work(connection)
                hit()
                return result

        return await use(in_transaction if deciding else work, within_s)

    store.append, store._writer.use = noted, used


# ---- effects ----


def _before_effects(hit: Hit) -> None:
    def when(engine: object, effects: list[object], *_: object) -> bool:
        return any(isinstance(effect, Answer) for effect in effects)

    seams.function("troth.server.engine:Engine._release", lambda release: seams.before(release, hit, when))


def _among_answers(hit: Hit) -> None:
    """One connection has got what a batch has for it, the others have not."""

    def make(original: Any) -> Any:
        def flush(door: Any) -> None:
            if len(door._dirty) > 1:
                _send_now(door._dirty.pop(0))
                hit()
            original(door)

        return flush

    seams.function("troth.server.inbound.seata:SeataDoor.flush", make)


def _among_calls(hit: Hit) -> None:
    """A branch has been called, and the next one has not."""

    def make(original: Any) -> Any:
        def call_branch(link: Any, call: object) -> None:
            original(link, call)
            _send_now(link)
            hit()

        return call_branch

    seams.function("troth.server.inbound.seata_link:SeataLink.call_branch", make)


def _among_bytes(hit: Hit) -> None:
    """Half of what a batch has for a connection is out."""
    releasing: list[object] = []

    def around_release(original: Any) -> Any:
        def release(engine: object, effects: list[object], *args: object) -> None:
            releasing.append(effects)
            try:
                original(engine, effects, *args)
            finally:
                releasing.pop()

        return release

    def around_flush(original: Any) -> Any:
        def flush(link: Any) -> None:
            if releasing and link._out and not link._transport.is_closing():
                data = b"".join(link._out)
                _push(link, data[: len(data) // 2])
                hit()
                link._out[:] = [data[len(data) // 2 :]]
            original(link)

        return flush

    seams.function("troth.server.engine:Engine._release", around_release)
    seams.function(_FLUSH, around_flush)


def _send_now(link: Any) -> None:
    """Write what waits for this connection to its socket itself: a loop may keep it until its next turn."""
    if link._out and not link._transport.is_closing():
        data = b"".join(link._out)
        link._out.clear()
        _push(link, data)


def _push(link: Any, data: bytes) -> None:
    os.write(link._transport.get_extra_info("socket").fileno(), data)


# ---- recovery ----


def _restored(hit: Hit) -> None:
    seams.function("troth.core.cell:Cell.restore", lambda restore: seams.after(restore, hit))


def _around_writes() -> tuple[Point, ...]:
    points: list[Point] = []
    for name, what, holds in WRITES:
        points += [
            Point(f"tc.{name}.before-write", Role.TC, f"{what}: decided in memory, not written", _before_write(holds)),
            Point(f"tc.{name}.after-write", Role.TC, f"{what}: durable, nobody has been told", _after_write(holds)),
        ]
    return tuple(points)


COORDINATOR_POINTS: tuple[Point, ...] = (
    *_around_writes(),
    Point(
        "tc.commit-decision.not-committed",
        Role.TC,
        "the decision to commit is in the store's transaction, which is not committed",
        _not_committed,
    ),
    Point(
        "tc.effects.before",
        Role.TC,
        "a batch with answers is durable, none of its effects has been carried out",
        _before_effects,
    ),
    Point("tc.answers.middle", Role.TC, "of a batch's answers and calls one connection has its share", _among_answers),
    Point("tc.calls.middle", Role.TC, "one branch has been called for phase two, the next has not", _among_calls),
    Point("tc.bytes.middle", Role.TC, "half of an answer's bytes are in the socket", _among_bytes),
    Point(
        "tc.recovery.before-load",
        Role.TC,
        "the store is open, nothing has been read from it",
        _on_store("load_hot", lambda load, hit: seams.before_await(load, hit)),
    ),
    Point(
        "tc.recovery.loaded",
        Role.TC,
        "what had not ended has been read, not taken up",
        _on_store("load_hot", lambda load, hit: seams.after_await(load, hit)),
    ),
    Point("tc.recovery.restored", Role.TC, "what had not ended is taken up, no door is open", _restored),
    Point(
        "tc.stop.before-close",
        Role.TC,
        "SIGTERM has come, what was decided is durable, the store is not closed",
        _on_store("close", lambda close, hit: seams.before_await(close, hit)),
    ),
)
