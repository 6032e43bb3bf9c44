"""The one way in: `submit(event)` decides in memory at once, writes what was decided, then acts.

Write, then act (design/coordinator §2): every event steps at once; its writes join the pending decisions. When
the store is free, all that is pending goes down as ONE batch; when that is durable, its effects (answers, calls)
are released in order. One batch in flight, no timer, no artificial delay: the slower the store, the bigger the
batches. An answer without a write waits behind the newest write that it may have seen, because both leave in one
ordered history.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from types import MappingProxyType

import msgspec

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.cell import Cell
from troth.core.decision import Decision
from troth.core.due import due_ms
from troth.core.model import Global, Outcome, RowKey
from troth.core.rules import Rules
from troth.server.clock import Clock
from troth.server.ids import IdGenerator
from troth.server.logs import get_logger
from troth.server.outside import Fence, Outbound, Waiter
from troth.server.scheduler import Scheduler
from troth.server.setback import Turn, granted_in_vain, requests_in_memory, tell_refused
from troth.server.waiters import FutureReply
from troth.stores.store import Batch, BatchRefused, Store, StoreCorrupt

log = get_logger("troth.engine")

_LOOK_AGAIN_MS = 60_000
"""A step of the coordinator's own that the store has refused would be refused again: it is not tried at once."""


class Housekeeping(msgspec.Struct, frozen=True):
    """How long ended transactions are kept in the store, and how often the old ones are swept out."""

    keep_outcomes_ms: int = 86_400_000
    interval_ms: int = 60_000
    purge_limit: int = 10_000


class Stats(msgspec.Struct):
    """Plain counters for /metrics; they only go up, except `backlog`."""

    events: int = 0
    store_commits: int = 0
    store_writes: int = 0
    store_seconds: float = 0.0
    largest_batch: int = 0
    transactions_begun: int = 0
    events_refused: int = 0


class Engine:
    """Runs one cell on one store. All methods belong to the event loop's thread."""

    def __init__(
        self,
        store: Store,
        *,
        rules: Rules,
        outbound: Outbound,
        clock: Clock,
        released: Callable[[], None],
        settled: Callable[[fx.Settled], None],
        failed: Callable[[BaseException], None],
        housekeeping: Housekeeping | None = None,
        fence: Fence | None = None,
        max_batch_writes: int = 20_000,
        max_backlog: int = 200_000,
    ) -> None:
        self.store = store
        self.clock = clock
        self.ids = IdGenerator(clock)
        self.stats = Stats()
        self._rules = rules
        self._outbound = outbound
        self._released = released
        self._settled = settled
        self._failed = failed
        self._housekeeping = housekeeping or Housekeeping()
        self._fence = fence
        self._max_batch_writes = max_batch_writes
        self._max_backlog = max_backlog
        self._cell = Cell(rules)
        self._scheduler = Scheduler()
        self._pending: deque[Turn] = deque()
        self._in_flight: list[Turn] = []
        self._held: list[ev.Event] | None = None
        """What happens while memory is read anew, and is decided afterwards."""
        self._second_chance: ev.Event | None = None
        self._lookups: dict[str, list[ev.TransactionEvent]] = {}
        self._gid_lookups: dict[str, list[ev.Begin]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._batch_number = 0
        self._sweep_due_ms = 0
        self._armed_ms = 0
        self._running = False

    # ---- life ----

    async def start(self) -> None:
        """Open the store, take up what had not ended, and make due what is due. Raises StoreError."""
        await self.store.open()
        hot = await self.store.load_hot()
        await self._confirm_lease()  # a long load may have outlived it: no door may open on what is stale
        self._batch_number = hot.last_batch
        self.ids.skip_past(hot.last_id)
        self.clock.not_before(_latest_ms(hot.transactions))
        self._take_up(hot.transactions)
        self._running = True
        self._idle.set()
        self._sweep_due_ms = self.clock.now_ms() + self._housekeeping.interval_ms
        self._spawn(self._write_loop(), "engine-writer")
        self._arm_timer()
        log.info("engine started", store=self.store.url, open_transactions=len(self._cell.transactions))

    def _take_up(self, transactions: Iterable[Global]) -> None:
        self._cell.restore(transactions)
        for xid, tx in self._cell.transactions.items():
            self._scheduler.set(xid, due_ms(tx))

    async def stop(self) -> None:
        """Let what is pending become durable and be answered, then close the store. No event is taken any more."""
        was_running, self._running = self._running, False
        if self._timer is not None:
            self._timer.cancel()
        if was_running:
            await self._idle.wait()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.store.close()

    # ---- the way in ----

    def submit(self, event: ev.Event) -> None:
        """Decide now; answers and calls follow when the decision is durable. Dropped once the engine has stopped:
        an event without an answer is one that its sender asks again."""
        if not self._running:
            return
        self.stats.events += 1
        if self._held is not None:
            self._held.append(event)
            return
        if type(event) is ev.Begin:
            self.stats.transactions_begun += 1
            if event.terms is not None and event.terms.gid and self._cell.find(event.terms.gid) is None:
                self._look_up_gid(event, event.terms.gid)
                return
        elif type(event) not in ev.CELL_EVENTS and not self._cell.knows(event.xid):  # type: ignore[union-attr]
            self._look_up(event)  # type: ignore[arg-type]
            return
        self._decide(event)

    @property
    def overloaded(self) -> bool:
        """True while so much waits for the store that doors should refuse new transactions (not running ones)."""
        return len(self._pending) > self._max_backlog

    @property
    def running(self) -> bool:
        return self._running

    # ---- views, read only ----

    def transactions(self) -> Mapping[str, Global]:
        """Every transaction that has not ended, oldest first."""
        return self._cell.transactions

    def queueing_for(self, keys: Iterable[RowKey]) -> list[str]:
        """The xids that queue for one of these rows, each once, longest wait first within a row."""
        return list(dict.fromkeys(waiter.xid for waiter in self._cell.locks.waiting_for(keys)))

    def outcome_in_memory(self, xid: str) -> Outcome | None:
        return self._cell.outcome(xid)

    @property
    def locks_held(self) -> int:
        return len(self._cell.locks)

    @property
    def locks_queued(self) -> int:
        return self._cell.locks.queued

    # ---- deciding ----

    def _decide(self, event: ev.Event) -> None:
        if self._held is not None:
            self._held.append(event)
            return
        try:
            decision = self._cell.decide(event, self.clock.now_ms())
        except Exception as error:  # noqa: BLE001 - a bug in the core: what is in memory cannot be trusted any more
            self._fail(error)
            return
        transactions = self._cell.transactions
        for xid in decision.moved:
            tx = transactions.get(xid)
            due = None if tx is None else due_ms(tx)
            self._scheduler.set(xid, due)
            if due is not None and due < self._armed_ms:
                self._arm_timer()
        self._await_write((event, decision))

    def _await_write(self, turn: Turn) -> None:
        if not self._pending:  # else the writer is awake already
            self._idle.clear()
            self._wake.set()
        self._pending.append(turn)

    def _look_up(self, event: ev.TransactionEvent) -> None:
        """An xid that is not in memory may have ended long ago: its events wait until the store has been asked."""
        queue = self._lookups.get(event.xid)
        if queue is not None:
            queue.append(event)
            return
        self._lookups[event.xid] = [event]
        self._spawn(self._load(event.xid), f"load {event.xid}")

    async def _load(self, xid: str) -> None:
        await self._all_decided_is_durable()  # its end may have left memory, and still be on its way to the store
        outcome = await self.store.outcome(xid)
        if not self._running:
            return
        self._decide(ev.Loaded(xid, outcome))
        for event in self._lookups.pop(xid):
            self._decide(event)

    def _look_up_gid(self, event: ev.Begin, gid: str) -> None:
        """A name that is not in memory may be that of a transaction that ended long ago: the store is asked first."""
        queue = self._gid_lookups.get(gid)
        if queue is not None:
            queue.append(event)
            return
        self._gid_lookups[gid] = [event]
        self._spawn(self._load_gid(gid), "look up a gid")

    async def _load_gid(self, gid: str) -> None:
        await self._all_decided_is_durable()
        xid = await self.store.find_gid(gid)
        outcome = None if xid is None else await self.store.outcome(xid)
        if not self._running:
            return
        if outcome is not None:
            self._decide(ev.Loaded(outcome.xid, outcome))
        for event in self._gid_lookups.pop(gid):
            self._decide(event)

    async def find(self, gid: str) -> str | None:
        """The xid of the transaction that its user has named `gid`, or that has it for its xid; None: there is none.

        Behind all that is decided now. Raises StoreError.
        """
        found = self._find_in_memory(gid)
        if found is not None or not self._running:
            return found
        await self._all_decided_is_durable()
        found = await self.store.find_gid(gid)
        if found is None:
            found = self._find_in_memory(gid)
        if found is None and await self.store.outcome(gid) is not None:
            found = gid
        return found

    def _find_in_memory(self, gid: str) -> str | None:
        return self._cell.find(gid) or (gid if self._cell.knows(gid) else None)

    async def _all_decided_is_durable(self) -> None:
        """Like any answer without a write, this one waits behind the newest write that was there when it was asked."""
        mark, decision = FutureReply(), Decision(self._rules)
        decision.answer(mark, fx.Unknown(""))
        self._await_write((None, decision))
        await mark.result

    # ---- writing, then acting ----

    async def _write_loop(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pending:
                try:
                    await self._write_pending()
                except BatchRefused as refused:
                    await self._write_one_by_one(refused)
            self._idle.set()

    async def _write_pending(self) -> None:
        writes, effects = self._take_pending()
        if writes:
            await self._append(writes)
        await self._confirm_lease()  # also after a write: this process may have slept since
        self._release(effects)

    async def _confirm_lease(self) -> None:
        if self._fence is not None and not self._fence.fresh:
            await self._fence.confirm()

    def _take_pending(self) -> tuple[list[fx.Write], list[fx.Effect]]:
        writes: list[fx.Write] = []
        effects: list[fx.Effect] = []
        self._in_flight = turns = []
        while self._pending and len(writes) < self._max_batch_writes:
            turn = self._pending.popleft()
            turns.append(turn)
            decision = turn[1]
            writes += decision.writes
            effects += decision.effects
        return writes, effects

    async def _append(self, writes: list[fx.Write]) -> None:
        self._batch_number += 1
        loop = asyncio.get_running_loop()
        started = loop.time()
        await self.store.append(Batch(self._batch_number, self.ids.last, writes))
        self.stats.store_seconds += loop.time() - started
        self.stats.store_commits += 1
        self.stats.store_writes += len(writes)
        self.stats.largest_batch = max(self.stats.largest_batch, len(writes))

    # ---- what the store refuses for its contents: only that is left out (design/coordinator §2) ----

    async def _write_one_by_one(self, refused: BatchRefused) -> None:
        """What precedes the event at fault is written and released; what follows it is decided anew."""
        self._batch_number -= 1
        turns = deque(self._in_flight)
        while turns:
            event, decision = turns.popleft()
            if decision.writes:
                try:
                    await self._append(decision.writes)
                except BatchRefused as blame:
                    self._batch_number -= 1
                    await self._leave_out((event, decision), blame, [*turns, *self._pending])
                    return
            await self._confirm_lease()
            self._release(decision.effects)
        log.error("the store has refused a batch, but each of its parts was taken", reason=str(refused))

    async def _leave_out(self, turn: Turn, blame: BatchRefused, later: Sequence[Turn]) -> None:
        """Memory has stepped over `turn` and what follows: it is read anew, and what was asked is asked again."""
        event, decision = turn
        # It may have let somebody in who had queued. Alone it does not: then it is seen whose fault it is.
        innocent = len(decision.moved) > 1 and event is not self._second_chance
        again: list[ev.Event] = [event] if innocent and event is not None else []
        self._second_chance = event
        later_events = [one for one, _ in later if one is not None]
        lost = [turn, *later]
        again += [*requests_in_memory(self._cell, lost), *later_events]
        self._pending.clear()
        self._held = []
        hot = await self.store.load_hot()
        await self._confirm_lease()
        if hot.last_batch != self._batch_number:
            raise StoreCorrupt(f"{self.store.url} holds batch {hot.last_batch}, but {self._batch_number} was written")
        self._cell, self._scheduler = Cell(self._rules), Scheduler()
        self._take_up(hot.transactions)
        held, self._held = self._held, None
        for asker in granted_in_vain(lost):
            self.stats.events_refused += 1
            asker.refuse(f"it was decided together with what cannot be stored: {blame}")
        begun = self.stats.transactions_begun
        for one in [*again, *held]:
            self.submit(one)
        self.stats.transactions_begun = begun
        self._pending.extend(one for one in later if one[0] is None)  # they stand for all that was decided before
        if not innocent:
            self._refuse(event, blame)
        self._arm_timer()

    def _refuse(self, event: ev.Event | None, blame: BatchRefused) -> None:
        self.stats.events_refused += 1
        xid = getattr(event, "xid", "")
        log.error("an event is left out: the store refuses it", kind=type(event).__name__, xid=xid, reason=str(blame))
        if not tell_refused(event, str(blame)) and xid in self._cell.transactions:
            self._scheduler.set(xid, self.clock.now_ms() + _LOOK_AGAIN_MS)

    def _release(self, effects: list[fx.Effect]) -> None:
        for effect in effects:
            try:
                ACTS[type(effect)](self, effect)
            except Exception:  # the decision is durable: a lost answer is asked again, a lost call is retried when due
                log.exception("an effect could not be carried out", effect=type(effect).__name__)
        self._released()

    def _answer(self, effect: fx.Answer) -> None:
        waiter: Waiter = effect.reply_to  # type: ignore[assignment]  # the core keeps it opaque
        waiter.answer(effect.result)

    def _call(self, effect: fx.Call) -> None:
        self._outbound.call(effect)

    def _settle(self, effect: fx.Settled) -> None:
        self._settled(effect)

    # ---- time ----

    def _arm_timer(self) -> None:
        """One timer, for the earliest thing that is due. It may come early, when what was due has been taken back."""
        next_ms = self._scheduler.next_ms()
        due = self._sweep_due_ms if next_ms is None else min(next_ms, self._sweep_due_ms)
        if self._timer is not None:
            self._timer.cancel()
        self._armed_ms = due
        delay_s = max(due - self.clock.now_ms(), 0) / 1000
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tick(self) -> None:
        if not self._running:
            return
        self._armed_ms = 0  # armed anew below: nothing that becomes due meanwhile needs to
        now = self.clock.now_ms()
        for xid in self._scheduler.take_due(now):
            self._decide(ev.Due(xid))
        if now >= self._sweep_due_ms:
            self._sweep(now)
        self._arm_timer()

    def _sweep(self, now: int) -> None:
        self._sweep_due_ms = now + self._housekeeping.interval_ms
        self._decide(ev.Sweep(now - self._rules.outcome_memory_ms))
        self._spawn(self._purge(now - self._housekeeping.keep_outcomes_ms), "purge outcomes")

    async def _purge(self, before_ms: int) -> None:
        limit = self._housekeeping.purge_limit
        while await self.store.purge(before_ms, limit) == limit:
            await asyncio.sleep(0)

    # ---- failing ----

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def step_down(self, error: BaseException) -> None:
        """Answer and write nothing more, because of `error`."""
        if self._running:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """What is durable is unknown, or memory cannot be trusted: nothing is answered; a restart loads the truth."""
        self._running = False
        self._pending.clear()
        self._idle.set()  # a stop that is under way must not wait for what will never be durable
        self._failed(error)


# The key guarantees the type.
ACTS: Mapping[type[fx.Effect], Callable[..., None]] = MappingProxyType(
    {fx.Answer: Engine._answer, fx.Call: Engine._call, fx.Settled: Engine._settle}
)


def _latest_ms(transactions: Iterable[Global]) -> int:
    """The latest moment that is written anywhere in what is open, 0 if nothing is.

    A wall clock that was set back while no coordinator ran would else let them, and their locks, live so much longer.
    """
    latest = 0
    for tx in transactions:
        latest = max(latest, tx.begin_ms, *(branch.last_attempt_ms or 0 for branch in tx.branches.values()))
    return latest
