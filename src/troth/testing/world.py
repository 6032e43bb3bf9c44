"""One simulated world: coordinator, disk, network, clients, faults and judges, all from one seed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from troth.client.links.registration import SPOKEN_VERSION
from troth.client.links.wire import Wire
from troth.core.decision import Decision
from troth.core.events import Event, Served
from troth.core.machine import TABLE
from troth.stores.memory import MemoryStore
from troth.stores.store import Batch
from troth.testing import coordinator as tc
from troth.testing.checkers import CHECKERS
from troth.testing.database import BranchName, Database, UndoRow, Value
from troth.testing.disk import Disk
from troth.testing.ledger import Ledger
from troth.testing.line import Line
from troth.testing.loop import VirtualLoop
from troth.testing.network import LONGEST_DELAY_S, Network, Process
from troth.testing.records import Records
from troth.testing.rm import OLD_VERSION, ResourceManager
from troth.testing.runners import Runner
from troth.testing.shared_disk import LeaseRow
from troth.testing.sql_database import SqlDatabase
from troth.testing.sql_service import SqlService
from troth.testing.steps import RUN, StepServices
from troth.testing.tm import TransactionManager
from troth.testing.weather import Weather
from troth.wire.seata.messages import BranchEndRequest, Message

_MOST_COMPLAINTS = 20
_SHARED = 0.35
"""In so many runs a second coordinator stands by, on a store that both share."""


@dataclass(frozen=True, slots=True)
class Options:
    """How big a run is. `storm_s` and `patience_s` are virtual seconds; patience is what is left after the faults."""

    purchases: int = 10
    tasks: int = 4
    storm_s: float = 8.0
    patience_s: float = 30.0
    violence: float = 1.0


@dataclass(frozen=True, slots=True)
class Moment:
    """One line of the timeline."""

    at_s: float
    who: str
    what: str


class World:
    """Everything that one run consists of, and the one place where all of it is heard of."""

    def __init__(self, loop: VirtualLoop, seed: int, options: Options) -> None:
        self.loop = loop
        self.seed = seed
        self.options = options
        self.timeline: list[Moment] = []
        self.complaints: list[str] = []
        self.rows_taken: Counter[str] = Counter()
        self.ledger = Ledger()
        self.records = Records()
        self.works_again = False
        self.starts = 0
        self.coordinator: tc.Coordinator | None = None
        self.weather = Weather(self.rng("weather"), options.violence, lambda fault: self.note("!", fault))
        self.network = Network(loop, self.rng("network"), self.weather)
        self.disk = Disk(self.rng("disk"), self.weather, self._written, MemoryStore())
        self.checkers = [kind(self) for kind in CHECKERS]
        self._chance = self.rng("world")
        self._candidates: list[tc.Coordinator] = []
        self.shared: LeaseRow | None = None
        """The row of the store, in those runs in which two coordinators share it."""
        if self._chance.random() < _SHARED:
            self.shared = LeaseRow(loop.time, tc.EPOCH_MS)
        self._skew_ms = 0
        self._started_ms = 0
        self.databases = self._make_databases()
        self.services = self._make_services()
        self.programs = [TransactionManager(self, f"tm{i}", options.purchases) for i in range(2)]
        self.steps = StepServices(self)
        self.runners = [Runner(self, f"run{i}", options.tasks) for i in range(2)]
        self.mixed: set[str] = set()
        """Transactions in which a runner has let databases work."""
        self.clients: tuple[ResourceManager | TransactionManager, ...] = (*self.services, *self.programs)

    def _make_databases(self) -> list[Database]:
        keys = ("1", "2", "3")
        names = ("jdbc:mysql://db0/shop", "jdbc:sqlite:/db1")
        databases = [Database(name, keys, self._commits_locally) for name in names]
        return [*databases, SqlDatabase("jdbc:sqlite:/db2", keys, self._commits_locally)]

    def _make_services(self) -> list[ResourceManager]:
        """Two applications over one database, a third with the other, a fourth by real SQL; one is an old client."""
        first, second, third = self.databases
        assert isinstance(third, SqlDatabase)
        return [
            ResourceManager(self, "rm0", "stock", first, version=SPOKEN_VERSION, merges=True),
            ResourceManager(self, "rm1", "order", first, version=SPOKEN_VERSION, merges=False),
            ResourceManager(self, "rm2", "account", second, version=OLD_VERSION, merges=True),
            SqlService(self, "rm3", "invoice", third, version=SPOKEN_VERSION),
        ]

    # ---- for everybody ----

    def rng(self, name: str) -> random.Random:
        """Chance of one part of the world, so that a change in one does not shift all others."""
        return random.Random(f"{self.seed}/{name}")

    def note(self, who: str, what: str) -> None:
        """A line of the timeline."""
        self.timeline.append(Moment(self.loop.time(), who, what))

    def complain(self, checker: str, text: str) -> None:
        """Something that must always hold does not."""
        self.note("WRONG", f"{checker}: {text}")
        if len(self.complaints) < _MOST_COMPLAINTS:
            self.complaints.append(f"{checker}: {text}")

    def line(
        self, process: Process, registration: Callable[[], Message], make_wire: Callable[[], Wire], timeout_s: float
    ) -> Line:
        """A client's way to the coordinator."""
        rng = self.rng(f"line/{process.name}/{self.loop.time()}")
        return Line(process, self.network, self, rng, registration, make_wire, timeout_s)

    def now_ms(self) -> int:
        """The clients' wall clock."""
        return tc.EPOCH_MS + round(self.loop.time() * 1000)

    def some_xid(self) -> str:
        """One that exists, mostly."""
        known = list(self.ledger.entries)
        return self._chance.choice(known[-12:]) if known else "10.0.0.1:8091:4711"

    @property
    def engine(self) -> tc.ObservedEngine | None:
        """The one that runs."""
        return None if self.coordinator is None else self.coordinator.engine

    def unsettled(self) -> int:
        """Requests that nobody has answered and calls that are out, over all connections."""
        if self.coordinator is None:
            return 0
        links = self.coordinator.links()
        requests = sum(abs(link._unanswered) for link in links)
        calls = sum(len(link._calls) for link in links)  # one that an RM has swallowed stays until the next one
        return requests + max(0, calls - self.weather.struck["phase two unanswered"])

    # ---- the coordinators' lives ----

    def start_coordinator(self) -> None:
        """A new life on what is durable, unless one runs; on a shared store, unless one leads and another waits."""
        while len(self._candidates) < (1 if self.shared is None else 2):
            self.starts += 1
            now_ms = round(self.loop.time() * 1000)
            self._skew_ms = tc.skew_ms(self._chance, self.weather.strikes, self._skew_ms, now_ms - self._started_ms)
            self._started_ms = now_ms
            process = Process(self.loop, f"tc{self.starts}", "10.0.0.1")
            candidate = tc.Coordinator(self, process, self.disk, self.shared, self._skew_ms)
            self._candidates.append(candidate)
            if self.shared is None:
                self.coordinator = candidate
            process.spawn(candidate.start())

    def started(self, coordinator: tc.Coordinator) -> None:
        """It accepts from now on."""
        self.coordinator = coordinator
        count, name = len(coordinator.engine.transactions()), coordinator.process.name
        self.note(name, f"starts, {count} transactions taken up, clock {self._skew_ms} ms")
        for checker in self.checkers:
            checker.starts(coordinator)
        self.loop.call_later(0.05, self._serve_runs, coordinator)

    def _serve_runs(self, coordinator: tc.Coordinator) -> None:
        """Those who run transactions have connected again."""
        if coordinator is self.coordinator and any(runner.up for runner in self.runners):
            coordinator.engine.submit(Served(RUN))

    def coordinator_gone(self, coordinator: tc.Coordinator) -> None:
        """Somebody will start the next one. (Of two, the one that is gone may have been deposed long ago.)"""
        self._candidates.remove(coordinator)
        if self.coordinator is coordinator:
            self.coordinator = None
        self.loop.call_later(self._chance.choice((0.01, 0.3, 1.5)), self.start_coordinator)

    # ---- what judges hear ----

    def decided(self, event: Event, decision: Decision) -> None:
        """The core has taken a turn."""
        for row in decision.rows:
            self.rows_taken[row.name] += 1
        if self.coordinator is not None:
            now_ms = self.coordinator.clock.now_ms()
            for checker in self.checkers:
                checker.decides(event, decision, now_ms)

    def _written(self, batch: Batch) -> None:
        for write in batch.writes:
            for checker in self.checkers:
                checker.writes(write)
            self.note("disk", f"{type(write).__name__} {write.xid} {_brief(write)}")
            try:
                self.ledger.apply(write)
            except KeyError as error:
                self.complain("durability", f"{write} is about something that was never written: {error}")
        if self.coordinator is not None:
            for checker in self.checkers:
                checker.batch_is_durable(self.coordinator)

    def asks(self, who: str, request: Message) -> object:
        """See `Witness`."""
        return [checker.asks(request) for checker in self.checkers]

    def hears(self, who: str, request: Message, answer: Message, note: object) -> None:
        """See `Witness`."""
        self.note(who, f"{type(request).__name__} {getattr(request, 'xid', '')} -> {_brief_answer(answer)}")
        assert isinstance(note, list)
        for checker, own in zip(self.checkers, note, strict=True):
            checker.hears(request, answer, own)

    def called(self, who: str, request: BranchEndRequest) -> None:
        """An RM is asked for phase two."""
        self.note(who, f"is asked {type(request).__name__} {request.branch_id} of {request.xid}")
        for checker in self.checkers:
            checker.is_called(request)

    def _commits_locally(self, database: Database, branch: BranchName, undo: UndoRow) -> None:
        for change in undo.changes:
            self.records.applied(change.after[-1])
        for checker in self.checkers:
            checker.commits_locally(database, branch, undo)

    def read(self, xid: str, database: Database, key: str, value: Value) -> None:
        """A row was read under the global lock."""
        for checker in self.checkers:
            checker.reads(xid, database, key, value)

    def concluded(self, who: str, xid: str, *, committed: bool) -> None:
        """A program believes this outcome."""
        self.note(who, f"concludes that {xid} is {'committed' if committed else 'rolled back'}")
        for checker in self.checkers:
            checker.concludes(xid, committed)

    # ---- one run ----

    async def run(self, storm: Callable[[World], asyncio.Task[None]]) -> None:
        """Start, let it storm, let it end, judge."""
        self.start_coordinator()
        for client in (*self.clients, *self.runners):
            client.start()
        raging = storm(self)
        await raging
        self._calm_down()
        await asyncio.sleep(LONGEST_DELAY_S)  # what is on its way arrives
        await self._until(self._all_ended)
        self.works_again = await self._buy_everything()
        await self._until(self._all_ended)
        await asyncio.sleep((tc.CONFIG.outcomes.memory + 2 * tc.CONFIG.outcomes.sweep) / 1000 + 0.5)
        for checker in self.checkers:
            await checker.finish()
        for failure in self.loop.failures:
            self.complain("internal", failure)

    def _calm_down(self) -> None:
        self.note("world", "the storm is over")
        self.weather.calm = True
        self.disk.refusal, self.disk.delay_s = None, 0.0
        self.network.heal()
        for candidate in self._candidates:
            candidate.process.fuse = None
            self.network.go_on(candidate.process)

    def _all_ended(self) -> bool:
        engine = self.engine
        idle = engine is not None and engine.running and not engine.transactions() and not engine.under_way
        programs: list[TransactionManager | Runner] = [*self.programs, *self.runners]
        everybody = all(program.idle for program in programs) and all(service.up for service in self.services)
        return idle and everybody and not self.ledger.open()

    async def _until(self, ready: Callable[[], bool]) -> None:
        deadline_s = self.loop.time() + self.options.patience_s
        while self.loop.time() < deadline_s and not ready():
            self._operate()
            await asyncio.sleep(0.5)

    def _operate(self) -> None:
        """An operator looks at what is stuck, and has it tried again."""
        engine = self.engine
        if engine is None or not engine.running:
            return
        for entry in self.ledger.open():
            if any(branch.frozen for branch in entry.branches.values()):
                engine.submit(tc.retry(entry.xid))

    async def _buy_everything(self) -> bool:
        for _ in range(5):
            if await self.programs[0].buy_everything():
                return True
            await asyncio.sleep(1.0)
        return False


def rows_of_table() -> frozenset[str]:
    """The names of all transitions."""
    return frozenset(row.name for row in TABLE)


def _brief(write: object) -> str:
    fields = ("branch_id", "phase", "cause", "lock_text", "phase_one", "frozen", "attempts", "rollback_only")
    values = ((name, getattr(write, name, None)) for name in fields)
    return " ".join(f"{name}={getattr(value, 'value', value)}" for name, value in values if value)


def _brief_answer(answer: Message) -> str:
    fields = ("xid", "branch_id", "global_status", "lockable", "result_code", "transaction_exception_code", "msg")
    values = ((name, getattr(answer, name, None)) for name in fields)
    return " ".join(f"{name}={getattr(value, 'name', value)}" for name, value in values if value)
