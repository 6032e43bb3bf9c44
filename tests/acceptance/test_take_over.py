"""Two `troth serve` on one PostgreSQL store behind a balancer: whatever happens to the leader, nothing that was
answered is lost, and whoever is deposed falls silent."""

from __future__ import annotations

import json
import os
import queue
import random
import signal
import subprocess
import threading
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from fixtures_coordinator import CoordinatorProcess, WireClient, until
from fixtures_relay import Relay
from fixtures_restarts import DatabaseServer
from troth.demo.servers.plan import Kind
from troth.demo.servers.private import PrivateServer, start
from troth.wire.seata import messages as m
from troth.wire.seata.enums import BranchType, GlobalStatus, ResultCode

pytestmark = pytest.mark.engines

RESOURCE = "jdbc:mysql://db/take-over"
TTL_S = 4
"""A loaded machine can keep a small server from answering for more than a second, and that rightly costs the lease."""
SETTINGS = (f"lease.ttl={TTL_S}s", "lease.poll=50ms", "lock.hot_wait=50ms")
TURN_WITHIN_S = 60.0
TIMEOUT_MS = 3_600_000
COMMITTED = {GlobalStatus.AsyncCommitting, GlobalStatus.CommitRetrying, GlobalStatus.Committed}
ROLLED_BACK = {GlobalStatus.Rollbacking, GlobalStatus.RollbackRetrying, GlobalStatus.Rollbacked}


class Candidate(CoordinatorProcess):
    """One of two coordinators, with a network of its own to the store."""

    def __init__(self, directory: Path, store: str, advertise: str) -> None:
        parts = urlsplit(store)
        self.network = Relay(lambda: [(str(parts.hostname), int(parts.port or 0))])
        store = store.replace(f":{parts.port}/", f":{self.network.port}/")
        super().__init__(directory, *SETTINGS, store=store, args=("--advertise", advertise))
        self.lines: queue.Queue[dict] = queue.Queue()

    def launch(self) -> Candidate:
        """Start the process; what it says is read by `said`."""
        self.process = None
        with self.log_file.open("ab") as log:
            environment = {name: value for name, value in os.environ.items() if not name.startswith("TROTH_")}
            self.process = subprocess.Popen(
                self.command(), stdout=subprocess.PIPE, stderr=log, cwd=self.directory, env=environment
            )
        threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True).start()
        return self

    def _read(self, said: object) -> None:
        for line in said:  # type: ignore[attr-defined]
            self.ready = json.loads(line)
            self.lines.put(self.ready)

    def said(self, event: str, *, skip: bool = False) -> dict:
        """The next thing that it says, which is `event`; with `skip`, the next `event` that it says."""
        try:
            line = self.lines.get(timeout=TURN_WITHIN_S)
            while skip and line["event"] != event:
                line = self.lines.get(timeout=TURN_WITHIN_S)
        except queue.Empty:
            raise AssertionError(f"never said {event!r}: {self.log()}") from None
        assert line["event"] == event, (line, self.log())
        return line

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.resume()
        super().close()
        self.network.close()


class Cell:
    """Two candidates and the address that stands for both."""

    def __init__(self, directory: Path, store: str) -> None:
        self.store = store
        self.balancer = Relay(self._targets)
        self.candidates: list[Candidate] = []
        for name in ("a", "b"):
            place = directory / name
            place.mkdir()
            self.candidates.append(Candidate(place, store, f"127.0.0.1:{self.balancer.port}"))

    def _targets(self) -> list[tuple[str, int]]:
        """Those that have said that they lead, the newest leader first: a paused process still accepts."""
        leaders = [one.ready for one in self.candidates if one.ready.get("event") == "ready"]
        return [("127.0.0.1", ready["port"]) for ready in sorted(leaders, key=lambda ready: -ready["epoch"])]

    @property
    def port(self) -> int:
        return self.balancer.port

    def start(self) -> tuple[Candidate, Candidate]:
        """The leader and the standby."""
        first, second = self.candidates
        first.launch().said("ready")
        standby = second.launch().said("standby")
        assert standby["reason"].endswith("leads")
        status, health = second.get("/health")
        assert status == 503
        assert health["status"].startswith("standby: ")
        assert health["epoch"] == first.ready["epoch"] == 1
        assert second.get("/api/transactions")[0] == 503
        return first, second

    def epoch(self) -> int:
        with psycopg.connect(self.store) as connection:
            row = connection.execute("SELECT epoch FROM troth.cell").fetchone()
        assert row is not None
        return int(row[0])

    def close(self) -> None:
        for candidate in self.candidates:
            candidate.close()
        self.balancer.close()


@dataclass
class Fact:
    """What a client knows of one transaction: answers that it has had, and what it has asked last."""

    xid: str
    branches: dict[int, str] = field(default_factory=dict)
    asked: GlobalStatus | None = None
    answer: GlobalStatus | None = None

    def may_stand(self) -> set[GlobalStatus]:
        """The states that contradict no answer. What was asked and not answered may have happened or not."""
        decided = {GlobalStatus.Committed: COMMITTED, GlobalStatus.Rollbacked: ROLLED_BACK}
        if self.asked is None:
            return {GlobalStatus.Begin}
        return decided[self.asked] | (set() if self.answer is not None else {GlobalStatus.Begin})


class Load:
    """A client that goes on against the cell's one address, whatever happens behind it."""

    def __init__(self, port: int, name: str, chance: random.Random) -> None:
        self.facts: list[Fact] = []
        self.answers = 0
        self.failure: BaseException | None = None
        self.stopping = False
        self._port = port
        self._name = name
        self._chance = chance
        self.thread = threading.Thread(target=self._run, name=name)
        self.thread.start()

    def _run(self) -> None:
        try:
            while not self.stopping:
                try:
                    with WireClient(self._port) as client:
                        client.register_tm().register_rm(RESOURCE)
                        while not self.stopping:
                            self._one(client)
                except (ConnectionError, TimeoutError):
                    continue  # the leader is gone or stuck: the next connection finds another
        except BaseException as error:  # noqa: BLE001 - the test's own thread reports it
            self.failure = error

    def _one(self, client: WireClient) -> None:
        fact = Fact(client.begin(timeout_ms=TIMEOUT_MS))
        self.facts.append(fact)
        for part in range(self._chance.randint(0, 2)):
            row = f"{self._name}-{len(self.facts)}-{part}"
            registered = client.branch(fact.xid, RESOURCE, f"t:{row}")
            assert registered.result_code is ResultCode.Success, registered
            fact.branches[registered.branch_id] = row
        if self._chance.random() < 0.6:
            fact.asked = GlobalStatus.Committed
            fact.answer = client.commit(fact.xid)
        client.requests.clear()
        self.answers += 1

    def stop(self) -> None:
        self.stopping = True
        self.thread.join(30)
        assert not self.thread.is_alive()
        assert self.failure is None, self.failure


def check_answers(cell: Cell, loads: list[Load]) -> None:
    """Every answer still holds, and so do the row locks. Nothing is registered for RESOURCE, so nothing moves."""
    facts = [fact for load in loads for fact in load.facts]
    with WireClient(cell.port).register_tm() as client:
        for fact in facts:
            stands = client.status(fact.xid)
            assert stands in fact.may_stand(), (fact, stands)
            if fact.answer is GlobalStatus.Committed:
                assert client.commit(fact.xid) is GlobalStatus.Committed, "a repeated commit hears the same"
            for row in fact.branches.values():
                query = m.GlobalLockQueryRequest("nobody:1:1", BranchType.AT, RESOURCE, f"t:{row}")
                assert client.ask(query).lockable is (stands in COMMITTED), (fact, stands)
    ids = [int(fact.xid.rpartition(":")[2]) for fact in facts] + [branch for fact in facts for branch in fact.branches]
    assert len(ids) == len(set(ids)), "an id was given out twice"


def run_through(cell: Cell, seed: int, strike: Callable[[], None]) -> list[Load]:
    """Clients work before, during and after `strike`, which returns when the next leader is ready."""
    chance = random.Random(seed)
    loads = [Load(cell.port, f"{seed}.{number}", random.Random(chance.random())) for number in range(3)]
    try:
        until(lambda: sum(load.answers for load in loads) > chance.randint(30, 90), 60)
        strike()
        before = [load.answers for load in loads]
        until(lambda: all(load.answers > b + 5 for load, b in zip(loads, before, strict=True)) or _failed(loads), 60)
    finally:
        for load in loads:
            load.stopping = True
    for load in loads:
        load.stop()
    return loads


def _failed(loads: list[Load]) -> bool:
    return any(load.failure for load in loads)


@pytest.fixture
def cell(tmp_path: Path, new_postgres_database: Callable[[], str]) -> Iterator[Cell]:
    cell = Cell(tmp_path, new_postgres_database())
    yield cell
    cell.close()


@pytest.fixture
def seed() -> int:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    return seed


def test_a_paused_leader_falls_silent_and_a_stopped_one_hands_over_at_once(cell: Cell, seed: int) -> None:
    first, second = cell.start()
    zombie = WireClient(first.port).register_tm()
    xid = zombie.begin(timeout_ms=TIMEOUT_MS)

    def strike() -> None:
        first.pause()
        cell.balancer.cut()  # as a health check would
        second.said("ready")

    loads = run_through(cell, seed, strike)
    zombie.post(m.GlobalStatusRequest(xid))
    zombie.post(m.GlobalCommitRequest(xid))
    first.resume()
    with pytest.raises(ConnectionError):
        zombie.receive()
    zombie.close()
    assert first.said("standby")["reason"].endswith("leads")
    assert cell.epoch() == 2
    check_answers(cell, loads)
    with WireClient(cell.port).register_tm() as client:
        assert client.status(xid) is GlobalStatus.Begin, "a deposed leader writes nothing"
    assert first.metrics()["troth_transactions_open"] == 0, "all memory is dropped"
    assert second.stop() == 0
    assert first.said("ready")["epoch"] == 3
    second.launch().said("standby")
    assert second.stop() == 0, "a standby ends when it is asked to"
    check_answers(cell, loads)
    assert first.stop() == 0


# ---- the other ways to lose a leader ----


def killed(cell: Cell, first: Candidate, second: Candidate) -> None:
    first.kill()
    second.said("ready")


def cut_off_before_the_batch(cell: Cell, first: Candidate, second: Candidate) -> None:
    first.network.partitioned = True
    first.network.hold(requests=True)
    second.said("ready")
    first.said("standby")
    first.network.heal()


def cut_off_in_commit(cell: Cell, first: Candidate, second: Candidate) -> None:
    """The batch arrives and is committed; its answer never comes."""
    first.network.partitioned = True
    first.network.hold(answers=True)
    second.said("ready")
    first.said("standby")
    first.network.heal()


def cut_off_until_much_later(cell: Cell, first: Candidate, second: Candidate) -> None:
    """What the deposed leader had sent arrives after the take-over."""
    first.network.partitioned = True
    first.network.hold(requests=True)
    second.said("ready")
    first.network.release()
    first.said("standby")
    first.network.heal()


def hung_up_on(cell: Cell, first: Candidate, second: Candidate) -> None:
    """A short loss of the connection, at whatever moment: the outcome is found out, and nobody steps down."""
    for _ in range(10):
        first.network.cut()
        until(lambda: first.get("/health")[0] == 200)


STRIKES = {
    strike.__name__: (strike, epochs)
    for strike, epochs in (
        (killed, 2),
        (cut_off_before_the_batch, 2),
        (cut_off_in_commit, 2),
        (cut_off_until_much_later, 2),
        (hung_up_on, 1),
    )
}


@pytest.mark.soak
@pytest.mark.parametrize("name", STRIKES)
def test_whatever_happens_to_the_leader_no_answer_is_lost(cell: Cell, seed: int, name: str) -> None:
    strike, epochs = STRIKES[name]
    first, second = cell.start()
    loads = run_through(cell, seed, lambda: strike(cell, first, second))
    assert cell.epoch() == epochs
    check_answers(cell, loads)


@pytest.mark.soak
def test_leaders_are_killed_over_and_over(cell: Cell, seed: int) -> None:
    leader, standby = cell.start()
    loads: list[Load] = []
    for number in range(6):

        def strike(leader: Candidate = leader, standby: Candidate = standby) -> None:
            leader.kill()
            standby.said("ready", skip=True)

        loads += run_through(cell, seed + number, strike)
        check_answers(cell, loads)
        leader.launch().said("standby", skip=True)
        leader, standby = standby, leader
    assert cell.epoch() >= 7


@pytest.mark.soak
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["ended", "crashed"])
def test_the_leader_loses_its_connections(tmp_path: Path, seed: int, how: signal.Signals) -> None:
    """One process of PostgreSQL that crashes takes the others with it, and the server recovers by itself."""
    with a_private_cell(tmp_path) as (cell, server):
        loads = run_through(cell, seed, lambda: end_backends(cell, server.server, how))
        check_answers(cell, loads)


@pytest.mark.soak
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
@pytest.mark.parametrize("past_the_lease", [False, True], ids=["at-once", "past-the-lease"])
def test_the_database_is_stopped_and_started_under_the_leader(
    tmp_path: Path, seed: int, how: signal.Signals, past_the_lease: bool
) -> None:
    with a_private_cell(tmp_path) as (cell, server):

        def strike() -> None:
            server.crash(how)
            if past_the_lease:
                until(lambda: not any_leads(cell), TURN_WITHIN_S, "the leader has stepped down")
            server.start()
            until(lambda: any_leads(cell), TURN_WITHIN_S, "one leads again")

        loads = run_through(cell, seed, strike)
        check_answers(cell, loads)
        assert cell.epoch() >= (2 if past_the_lease else 1)


@contextmanager
def a_private_cell(directory: Path) -> Iterator[tuple[Cell, DatabaseServer]]:
    """Two candidates on a server of their own, which may be ended."""
    (private,) = start(Kind.POSTGRES)
    server = DatabaseServer(private)
    cell = Cell(directory, private.create_database("restarted"))
    try:
        cell.start()
        yield cell, server
    finally:
        cell.close()
        server.close()


def any_leads(cell: Cell) -> bool:
    return any(leads(one) for one in cell.candidates)


def leads(candidate: Candidate) -> bool:
    try:
        return candidate.get("/health")[0] == 200
    except (urllib.error.URLError, ConnectionError):
        return False  # it closes its doors when it steps down, and opens the admin port again as a standby


def end_backends(cell: Cell, server: PrivateServer, how: signal.Signals) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        backends = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'troth coordinator'"
        ).fetchall()
    for (pid,) in backends[:1] if how is signal.SIGKILL else backends:
        os.kill(pid, how)
    until(lambda: any_leads(cell), TURN_WITHIN_S, "one leads")
