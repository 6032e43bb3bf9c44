"""What one transaction costs the coordinator in CPU time, layer by layer, without a socket or a second process.

The real door, engine, core and wire are driven through a transport that keeps what is written to it: bytes in, bytes
out. The whole is timed, then each layer alone on what went through it: frames decoded, events decided, answers
encoded, batches folded and written. Every figure is the least CPU time of the rounds, in microseconds: what another
program does to the machine only ever adds.

    .venv/bin/python bench/path.py                    # 8 connections x 32 in flight, without a store
    .venv/bin/python bench/path.py --store sqlite     # the embedded store, its thread counted in
    .venv/bin/python bench/path.py --profile          # where the time goes, by function
"""

import argparse
import asyncio
import cProfile
import gc
import pstats
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import Any, cast

from troth.core import events as ev
from troth.core.cell import Cell
from troth.core.decision import Decision
from troth.core.effects import Settled
from troth.core.rules import Rules
from troth.server.clock import SteadyClock
from troth.server.config import Config
from troth.server.engine import Engine
from troth.server.inbound.seata import SeataDoor
from troth.server.inbound.seata_link import SeataLink
from troth.server.inbound.seata_requests import Requests
from troth.server.outbound.seata import SeataOutbound
from troth.server.process import new_event_loop
from troth.server.sessions import Sessions
from troth.stores.folding import fold
from troth.stores.memory import MemoryStore
from troth.stores.sqlite import SqliteStore
from troth.stores.store import Batch, Store
from troth.wire.seata import messages as m
from troth.wire.seata.connection import Connection
from troth.wire.seata.enums import BranchStatus, BranchType, MessageType, SerializerType
from troth.wire.seata.envelope import NO_HEAD_MAP, Frame
from troth.wire.seata.frame import decode_frame, encode_frame

RESOURCE = "jdbc:mysql://127.0.0.1:3306/shop"
FRAMES_IN, FRAMES_OUT, EVENTS = 4, 4, 4
"""Of one transaction: begin, register, commit and the answer to phase two; as many frames back."""


class NoStore(MemoryStore):
    """Remembers nothing: what is left is the path."""

    async def append(self, batch: Batch) -> None:
        """Done."""


@dataclass
class Seen:
    """What went through the coordinator in one round, for timing the layers alone."""

    received: list[list[bytes]] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    events: list[tuple[ev.Event, int]] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)


class Transport:
    """Takes what a link writes."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def get_extra_info(self, name: str) -> tuple[str, int]:
        """Any peer."""
        return ("127.0.0.1", 40000 + id(self) % 10000)

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.written.append(data)

    def is_closing(self) -> bool:
        """Never."""
        return False


class Client:
    """One connection's other end: several transactions, all at the same step. Its own work is not timed."""

    def __init__(self, link: SeataLink, transport: Transport) -> None:
        self.link, self.transport = link, transport
        self._codec = Connection(max_unregistered_bytes=None)
        self._ids = 0
        self._rows = 0

    def frames(self, messages: Iterable[m.Message]) -> bytes:
        """Requests with ids of our own."""
        out = []
        for message in messages:
            self._ids += 1
            out.append(encode_frame(_frame(MessageType.REQUEST, self._ids, message)))
        return b"".join(out)

    def answers(self) -> list[Frame]:
        """What has been written since the last call."""
        data = b"".join(self.transport.written)
        self.transport.written.clear()
        return self._codec.receive_data(data)

    def next_rows(self) -> str:
        """Two row locks that nobody else wants."""
        self._rows += 1
        start = id(self) % 100_000 * 1_000_000 + self._rows
        return f"stock:{start};account:{start}"


def _frame(kind: MessageType, request_id: int, message: m.Message) -> Frame:
    return Frame(1, kind, SerializerType.SEATA, decode_frame(_PING).compressor, request_id, NO_HEAD_MAP, message)


_PING = Struct(">2sBiHBBBi").pack(b"\xda\xda", 1, 16, 16, 3, 1, 0, 1)


class Coordinator:
    """A coordinator without a socket."""

    def __init__(self, store: Store, seen: Seen | None = None) -> None:
        self.seen = seen
        self.settled = 0
        config = Config()
        sessions = Sessions()
        outbound = SeataOutbound(sessions, lambda event: self.engine.submit(event))
        self.engine = Engine(
            store,
            rules=Rules(),
            outbound=outbound,
            clock=SteadyClock(),
            released=lambda: self.door.flush(),
            settled=self._count,
            failed=self._fail,
        )
        requests = Requests(
            config, sessions, submit=self.engine.submit, next_id=self.engine.ids.next, overloaded=lambda: None
        )
        requests.address = "127.0.0.1:8091"
        self.door = SeataDoor(
            config.limits,
            requests,
            sessions,
            submit=self.engine.submit,
            settle=outbound.settle,
            call_keep_s=150.0,
        )
        if seen is not None:
            self.engine._cell = cast(Cell, RecordingCell(self.engine._cell, seen))

    def _count(self, settled: Settled) -> None:
        self.settled += 1

    def _fail(self, error: BaseException) -> None:
        raise error

    def connect(self) -> Client:
        """One more registered connection."""
        transport = Transport()
        link = SeataLink(cast(Any, self.door), asyncio.get_running_loop())
        link.connection_made(cast(Any, transport))
        client = Client(link, transport)
        link.data_received(client.frames([m.RegisterTMRequest("2.6.0", "shop", "default_tx_group")]))
        link.data_received(client.frames([m.RegisterRMRequest("2.6.0", "shop", "default_tx_group", None, RESOURCE)]))
        client.answers()
        return client


class RecordingCell:
    """The engine's cell; what it is asked to decide is kept."""

    def __init__(self, cell: Cell, seen: Seen) -> None:
        self._cell, self._seen = cell, seen

    def __getattr__(self, name: str) -> object:
        return getattr(self._cell, name)

    def decide(self, event: ev.Event, now: int) -> Decision:
        """As the cell does."""
        self._seen.events.append((event, now))
        return self._cell.decide(event, now)


class RecordingStore(NoStore):
    """Keeps the batches."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self._seen = seen

    async def append(self, batch: Batch) -> None:
        """Done."""
        self._seen.batches.append(batch)


class Meter:
    """CPU time of the coordinator's thread while it works, and only then; and of the store's thread, all of it."""

    def __init__(self, profile: cProfile.Profile | None) -> None:
        self.spent_ns = 0
        self._profile = profile

    async def __call__(self, path: Coordinator, given: Sequence[tuple[Client, bytes]]) -> None:
        """Hand each client's bytes to its link, and wait until all of it is answered."""
        if path.seen is not None:
            path.seen.received.extend([data] for _, data in given)
        if self._profile is not None:
            self._profile.enable()
        started = time.thread_time_ns()
        for client, data in given:
            client.link.data_received(data)
        await path.engine._idle.wait()
        self.spent_ns += time.thread_time_ns() - started
        if self._profile is not None:
            self._profile.disable()


async def transactions(path: Coordinator, clients: list[Client], in_flight: int, meter: Meter) -> None:
    """As many transactions as fit in flight, from begin to the answer to phase two."""
    begins = [m.GlobalBeginRequest(60_000, "purchase")] * in_flight
    await meter(path, [(client, client.frames(begins)) for client in clients])
    xids = {client: [cast(m.GlobalBeginResponse, f.body).xid for f in client.answers()] for client in clients}
    registers = [
        (
            client,
            client.frames(m.BranchRegisterRequest(xid, BranchType.AT, RESOURCE, client.next_rows()) for xid in mine),
        )
        for client, mine in xids.items()
    ]
    await meter(path, registers)
    for client in clients:
        client.answers()
    commits = [(client, client.frames(m.GlobalCommitRequest(xid) for xid in mine)) for client, mine in xids.items()]
    await meter(path, commits)
    await meter(path, [(client, _phase_two(client)) for client in clients])


def _phase_two(client: Client) -> bytes:
    out = []
    for frame in client.answers():
        call = frame.body
        if isinstance(call, m.BranchCommitRequest):
            done = m.BranchCommitResponse(
                xid=call.xid, branch_id=call.branch_id, branch_status=BranchStatus.PhaseTwo_Committed
            )
            out.append(encode_frame(_frame(MessageType.RESPONSE, frame.request_id, done)))
    return b"".join(out)


async def run(store: Store, options: argparse.Namespace, meter: Meter, seen: Seen | None = None) -> float:
    """Microseconds a transaction."""
    path = Coordinator(store, seen)
    await path.engine.start()
    clients = [path.connect() for _ in range(options.connections)]
    for _ in range(2):
        await transactions(path, clients, options.in_flight, Meter(None))
    if seen is not None:
        seen.received.clear(), seen.events.clear(), seen.batches.clear()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    before = path.settled
    store_before = await store_thread_ns(store)
    turns = -(-options.transactions // (options.connections * options.in_flight))
    for _ in range(turns):
        await transactions(path, clients, options.in_flight, meter)
    meter.spent_ns += await store_thread_ns(store) - store_before
    await path.engine.stop()
    done = path.settled - before
    if done != turns * options.connections * options.in_flight:
        raise SystemExit(f"{done} transactions ended where {turns} turns were made")
    return meter.spent_ns / 1000 / done


async def store_thread_ns(store: Store) -> int:
    """CPU time of the embedded store's thread so far, with all that was written folded into its tables."""
    if not isinstance(store, SqliteStore):
        return 0
    await store.load_hot()
    return await store._run(time.thread_time_ns)


# ---- layers alone ----


def spent(work: Callable[[], None]) -> float:
    """CPU microseconds."""
    started = time.process_time_ns()
    work()
    return (time.process_time_ns() - started) / 1000


def decode_all(seen: Seen) -> None:
    """Bytes to messages."""
    connection = Connection(max_unregistered_bytes=None)
    for chunks in seen.received:
        for data in chunks:
            connection.receive_data(data)


def decide_all(seen: Seen) -> None:
    """Events to decisions, in a cell of their own."""
    cell = Cell(Rules())
    for event, now in seen.events:
        cell.decide(event, now)


def encode_all(frames: Sequence[Frame]) -> None:
    """Frames to bytes."""
    connection = Connection(max_unregistered_bytes=None)
    for frame in frames:
        connection.send(frame)


def fold_all(seen: Seen) -> None:
    """Batches to their net change."""
    for batch in seen.batches:
        fold(batch.writes)


def layers(seen: Seen, done: int) -> list[tuple[str, float, int]]:
    """Name, microseconds a transaction, messages a transaction."""
    answers = _answers_like(done)
    return [
        ("decode: bytes to messages", spent(lambda: decode_all(seen)) / done, FRAMES_IN),
        ("decide: the core alone", spent(lambda: decide_all(seen)) / done, EVENTS),
        ("encode: answers and calls to bytes", spent(lambda: encode_all(answers)) / done, FRAMES_OUT),
        ("fold: batches to net changes", spent(lambda: fold_all(seen)) / done, 1),
    ]


def _answers_like(done: int) -> list[Frame]:
    xid = "127.0.0.1:8091:612489549322387457"
    one = [
        m.GlobalBeginResponse(xid=xid),
        m.BranchRegisterResponse(branch_id=612489549322387458),
        m.GlobalCommitResponse(),
        m.BranchCommitRequest(xid, 612489549322387458, BranchType.AT, RESOURCE),
    ]
    return [_frame(MessageType.RESPONSE, number, message) for number in range(done) for message in one]


def measure(options: argparse.Namespace) -> None:
    """Print the whole and the layers."""
    whole: list[float] = []
    parts: dict[str, tuple[float, int]] = {}
    profile = cProfile.Profile() if options.profile else None
    with tempfile.TemporaryDirectory(prefix="troth-path-") as directory:
        for number in range(options.rounds):
            store = NoStore() if options.store == "none" else SqliteStore(str(Path(directory) / f"{number}.db"))
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                whole.append(runner.run(run(store, options, Meter(profile))))
    for _ in range(options.rounds if profile is None else 0):
        seen = Seen()
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(run(RecordingStore(seen), options, Meter(None), seen))
        done = sum(type(event) is ev.Begin for event, _ in seen.events)
        for name, cost, count in layers(seen, done):
            parts[name] = (min(cost, parts.get(name, (cost, 0))[0]), count)
    report(options, whole, parts)
    if profile is not None:
        pstats.Stats(profile).sort_stats("tottime").print_stats(45)


def report(options: argparse.Namespace, whole: list[float], parts: dict[str, tuple[float, int]]) -> None:
    """As a table."""
    print(
        f"{'whole path, store ' + options.store:<40} {min(whole):7.1f} µs/tx {min(whole) / FRAMES_IN:7.2f} µs/message"
    )
    for name, (cost, count) in parts.items():
        print(f"{name:<40} {cost:7.1f} µs/tx {cost / count:7.2f} µs/message")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench/path.py", description=__doc__.split("\n")[0])
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--transactions", type=int, default=10_000, help="a round (default 10000)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--store", choices=("none", "sqlite"), default="none")
    parser.add_argument("--profile", action="store_true")
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
