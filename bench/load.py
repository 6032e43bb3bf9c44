"""AT transactions against a coordinator that speaks Seata's protocol: the same load as `load/*.go`, in Python.

Every transaction is GlobalBegin, BranchRegister (AT, two row locks of its own), GlobalCommit, each awaited;
BranchCommit, phase two, is answered at once. Tests use it, so that they need no Go; `run.py` uses it where Go is
missing, and then this program is the limit more often than the coordinator. Flags and JSON keys are those of the Go
generator.
"""

import argparse
import asyncio
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from troth.wire.seata.connection import Connection
from troth.wire.seata.enums import BranchStatus, BranchType, GlobalStatus, MessageType, ResultCode
from troth.wire.seata.errors import WireError
from troth.wire.seata.frame import Frame
from troth.wire.seata.messages import (
    BranchCommitRequest,
    BranchCommitResponse,
    BranchRegisterRequest,
    BranchRegisterResponse,
    GlobalBeginRequest,
    GlobalBeginResponse,
    GlobalCommitRequest,
    GlobalCommitResponse,
    Message,
    RegisterRMRequest,
    RegisterRMResponse,
    RegisterTMRequest,
    RegisterTMResponse,
    TransactionResponse,
)

VERSION, APPLICATION, GROUP = "2.6.0", "bench", "default_tx_group"
RESOURCE = "jdbc:mysql://127.0.0.1:3306/bench"
PING_AFTER_S = 5.0  # PROTOCOL §4: the coordinator drops a channel that is silent for 15 s

Answer = TypeVar("Answer", bound=Message)


class Unexpected(Exception):
    """An answer that this load must never get. `kind` is the name it is counted under."""

    def __init__(self, kind: str, detail: object) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


@dataclass(slots=True)
class Tally:
    """What all connections counted. Times are seconds of `time.monotonic`."""

    window_from: float
    window_to: float  # infinite when a number of transactions is asked for
    begun: int = 0
    committed: int = 0
    phase_two: int = 0
    pings: int = 0
    pongs: int = 0
    last_commit: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    phase_two_at: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    samples: dict[str, str] = field(default_factory=dict)

    def fail(self, kind: str, detail: object) -> None:
        """Count an error and keep the first text of its kind."""
        self.errors[kind] += 1
        self.samples.setdefault(kind, str(detail))


@dataclass(slots=True)
class Branch:
    """A branch until both its commit and its phase two have been seen, in any order."""

    xid: str
    committed: bool = False
    measured: bool = False
    phase_two_at: float | None = None


class Link(asyncio.Protocol):
    """One connection with the roles of TM and RM: all that is due on it leaves in one write per turn of the loop."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.wire = Connection(max_unregistered_bytes=None)
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.out: list[bytes] = []
        self.last_write = self.loop.time()
        self.waiting: dict[int, asyncio.Future[Message]] = {}
        self.branches: dict[int, Branch] = {}
        self.settled = asyncio.Event()
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.settled.set()
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(Unexpected("connection", exc or "closed by the coordinator"))

    def close(self) -> None:
        """Close the connection once everything written has left."""
        if self.transport is not None:
            self.transport.close()

    async def ask(self, message: Message, answer: type[Answer]) -> Answer:
        """Send a request and await its answer, which must be of the class named."""
        if self.lost:
            raise Unexpected("connection", "lost")
        frame = self.wire.request(message)
        future: asyncio.Future[Message] = self.loop.create_future()
        self.waiting[frame.request_id] = future
        self.send(frame)
        heard = await future
        if not isinstance(heard, answer):
            raise Unexpected("answer_type", heard)
        return heard

    def send(self, frame: Frame) -> None:
        """Put a frame into the write that leaves at the end of this turn of the loop."""
        if not self.out:
            self.loop.call_soon(self.flush)
        self.out.append(self.wire.send(frame))

    def flush(self) -> None:
        data, self.out = b"".join(self.out), []
        self.last_write = self.loop.time()
        if self.transport is not None and not self.lost:
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        try:
            frames = self.wire.receive_data(data)
        except WireError as error:
            self.tally.fail("wire", error)
            self.close()
            return
        for frame in frames:
            self.handle(frame)

    def handle(self, frame: Frame) -> None:
        if frame.message_type is MessageType.HEARTBEAT_PONG:
            self.tally.pongs += 1
        elif frame.message_type is MessageType.RESPONSE:
            future = self.waiting.pop(frame.request_id, None)
            if future is None:
                self.tally.fail("answer_unasked", frame)
            elif not future.done():
                future.set_result(frame.body)
        elif isinstance(frame.body, BranchCommitRequest):
            self.commit_branch(frame, frame.body)
        else:
            self.tally.fail("request_type", frame)

    def commit_branch(self, frame: Frame, asked: BranchCommitRequest) -> None:
        """Phase two: answer at once, and count it if it is due."""
        done = BranchStatus.PhaseTwo_Committed
        self.send(
            self.wire.reply(frame, BranchCommitResponse(xid=asked.xid, branch_id=asked.branch_id, branch_status=done))
        )
        branch = self.branches.get(asked.branch_id)
        if branch is None or branch.xid != asked.xid or branch.phase_two_at is not None:
            self.tally.fail("phase_two_unexpected", asked)
            return
        self.tally.phase_two += 1
        branch.phase_two_at = time.monotonic()
        self.settle(asked.branch_id, branch)

    def settle(self, branch_id: int, branch: Branch) -> None:
        """Forget a branch whose commit and phase two are both known."""
        if not branch.committed or branch.phase_two_at is None:
            return
        del self.branches[branch_id]
        if branch.measured:
            self.tally.phase_two_at.append(branch.phase_two_at)
        if not self.branches:
            self.settled.set()

    async def keep_alive(self) -> None:
        """Ping after five idle seconds, for as long as the connection lasts."""
        while not self.lost:
            await asyncio.sleep(1.0)
            if self.loop.time() - self.last_write >= PING_AFTER_S:
                self.send(self.wire.ping())
                self.tally.pings += 1

    async def register(self) -> None:
        """Register as TM, then as RM of the one resource."""
        tm = await self.ask(RegisterTMRequest(VERSION, APPLICATION, GROUP, ""), RegisterTMResponse)
        rm = await self.ask(RegisterRMRequest(VERSION, APPLICATION, GROUP, None, RESOURCE), RegisterRMResponse)
        if not (tm.identified and rm.identified):
            raise Unexpected("register", f"{tm} {rm}")


def expect_success(kind: str, answer: TransactionResponse, ok: bool = True) -> None:
    """Refuse an answer that failed, or that `ok` says is not the right one."""
    if answer.result_code is not ResultCode.Success or not ok:
        raise Unexpected(kind, answer)


async def transaction(link: Link, rows: Iterator[int], timeout_ms: int) -> None:
    """One transaction from begin to the answered commit."""
    tally, started = link.tally, time.monotonic()
    tally.begun += 1
    begun = await link.ask(GlobalBeginRequest(timeout_ms, "bench"), GlobalBeginResponse)
    expect_success("begin", begun, bool(begun.xid))
    xid = begun.xid or ""
    lock_key = f"bench:{next(rows)},{next(rows)}"
    register = BranchRegisterRequest(xid, BranchType.AT, RESOURCE, lock_key)
    registered = await link.ask(register, BranchRegisterResponse)
    expect_success("branch_register", registered, registered.branch_id not in link.branches)
    branch = link.branches[registered.branch_id] = Branch(xid)
    ended = await link.ask(GlobalCommitRequest(xid), GlobalCommitResponse)
    if ended.result_code is not ResultCode.Success or ended.global_status is not GlobalStatus.Committed:
        del link.branches[registered.branch_id]
        raise Unexpected("commit", ended)
    now = time.monotonic()
    tally.committed += 1
    branch.committed = True
    branch.measured = tally.window_from <= (started if math.isinf(tally.window_to) else now) < tally.window_to
    if branch.measured:
        tally.latencies_s.append(now - started)
        tally.last_commit = now
    link.settle(registered.branch_id, branch)


class Budget:
    """How many transactions may still begin, or until when."""

    def __init__(self, tally: Tally, transactions: int | None) -> None:
        self.tally = tally
        self.left = transactions

    def take(self) -> bool:
        now = time.monotonic()
        if self.left is None or now < self.tally.window_from:
            return now < self.tally.window_to
        self.left -= 1
        return self.left >= 0


async def one_after_the_other(link: Link, rows: Iterator[int], budget: Budget, timeout_ms: int) -> None:
    """One of the transactions in flight of a connection, again and again. The first error ends it."""
    while budget.take():
        try:
            await transaction(link, rows, timeout_ms)
        except Unexpected as error:
            link.tally.fail(error.kind, error)
            return


def rows_of(connection: int) -> Iterator[int]:
    """Rows that no other connection or run locks."""
    first = int(time.time()) % 1_000_000 * 10**12 + connection * 10**9
    return iter(range(first, first + 10**9))


async def load(options: argparse.Namespace) -> Tally:
    """Connect, register, run everything to its end, phase two included."""
    host, _, port = options.addr.rpartition(":")
    tally = Tally(window_from=0.0, window_to=math.inf)
    loop = asyncio.get_running_loop()
    links = [
        (await loop.create_connection(lambda: Link(tally), host, int(port)))[1] for _ in range(options.connections)
    ]
    for link in links:
        await link.register()
    tally.window_from = time.monotonic() + options.warmup_s
    if not options.transactions:
        tally.window_to = tally.window_from + options.seconds
    budget = Budget(tally, options.transactions or None)
    pings = [asyncio.create_task(link.keep_alive()) for link in links]
    try:
        async with asyncio.timeout(options.limit_s):
            async with asyncio.TaskGroup() as group:
                for number, link in enumerate(links):
                    rows = rows_of(number)
                    for _ in range(options.in_flight):
                        group.create_task(one_after_the_other(link, rows, budget, options.timeout_ms))
            await phase_two_of(links)
    except TimeoutError:
        tally.fail("unfinished", f"not done after {options.limit_s} s")
    finally:
        for ping, link in zip(pings, links, strict=True):
            ping.cancel()
            link.close()
    return tally


async def phase_two_of(links: list[Link]) -> None:
    """Wait until every branch has seen its phase two, or its connection is lost."""
    for link in links:
        while link.branches and not link.lost:
            link.settled.clear()
            await link.settled.wait()
        if link.branches:
            link.tally.fail("phase_two_missing", f"{len(link.branches)} branches")


def quantile_ms(ordered_s: list[float], share: float) -> float:
    """The duration, in milliseconds, that `share` of all do not exceed."""
    return round(ordered_s[math.ceil(share * len(ordered_s)) - 1] * 1000, 3) if ordered_s else 0.0


def report(options: argparse.Namespace, tally: Tally) -> dict[str, object]:
    """The JSON object of `load/*.go`: rates per second, latencies in milliseconds of a whole transaction."""
    seconds = (tally.last_commit if math.isinf(tally.window_to) else tally.window_to) - tally.window_from
    measured, latencies = len(tally.latencies_s), sorted(tally.latencies_s)
    ends = sorted(tally.phase_two_at)[: math.ceil(0.99 * measured)]
    whole = len(ends) / max(ends[-1] - tally.window_from, 1e-3) if ends else 0.0
    if not measured:
        tally.fail("nothing_measured", "no commit was answered inside the window")
    return {
        "generator": "python",
        "connections": options.connections,
        "in_flight": options.in_flight,
        "seconds": round(seconds, 3) if measured else 0.0,
        "transactions": measured,
        "tx_per_s": round(measured / seconds, 1) if measured else 0.0,
        "whole_per_s": round(whole, 1),
        "p50_ms": quantile_ms(latencies, 0.50),
        "p99_ms": quantile_ms(latencies, 0.99),
        "max_ms": quantile_ms(latencies, 1.0),
        "begun_total": tally.begun,
        "committed_total": tally.committed,
        "phase_two_total": tally.phase_two,
        "heartbeats_sent": tally.pings,
        "heartbeats_answered": tally.pongs,
        "errors": dict(tally.errors),
        "error_samples": tally.samples,
    }


def parse(args: list[str]) -> argparse.Namespace:
    """Read the flags, which are those of the Go generator."""
    parser = argparse.ArgumentParser(
        prog="load.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--addr", default="127.0.0.1:8091", metavar="HOST:PORT", help="the coordinator")
    parser.add_argument("--connections", type=int, default=8, help="TCP connections, each TM and RM")
    parser.add_argument("--in-flight", type=int, default=8, help="transactions at a time on each connection")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of the measured window")
    parser.add_argument("--transactions", type=int, default=0, help="measure this many instead of a length of time")
    parser.add_argument("--warmup-s", type=float, default=1.0, help="seconds of load before the window")
    parser.add_argument("--timeout-ms", type=int, default=60_000, help="timeout of each global transaction")
    parser.add_argument("--limit-s", type=float, default=300.0, help="give up when the run is not done by then")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of an indented object")
    return parser.parse_args(args)


def main() -> int:
    options = parse(sys.argv[1:])
    try:
        tally = asyncio.run(load(options))
    except (OSError, Unexpected) as error:
        print(f"load.py: {options.addr}: {error}", file=sys.stderr)
        return 1
    result = report(options, tally)
    print(json.dumps(result, indent=None if options.json else 2))
    return 1 if result["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
