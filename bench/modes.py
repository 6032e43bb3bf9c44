"""What the modes cost at the coordinator, side by side: AT, TCC, XA and saga of one branch, and large ones.

    .venv/bin/python bench/modes.py                          # some 4 min
    .venv/bin/python bench/modes.py --seconds 2 --rounds 3 --in-flight 16

Every transaction is begin, register (AT with two row locks, TCC with a context of 200 bytes, XA with its vote), commit,
and phase two, answered at once; a TCC or XA commit is heard after phase two, as ever. A saga is begin with its runner,
the record of one step of 200 bytes, commit: it has no phase two. Each round measures every mode once, at one server
each, and ratios are taken inside a round. The generator is Python and shares the machine, so the ratios say more than
the rates. Of a large transaction the time and the server's CPU time of a branch (of a step) are compared with those of
one of ten, for TCC's commit and rollback, and for a saga; `tests/acceptance/test_tcc_scale.py` asserts what can be
counted.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from conditions import conditions
from figures import write_into
from load import APPLICATION, GROUP, VERSION, Link, Tally, expect_success
from pairs import Ratio, ratio
from private_server import PrivateServer, cpu_seconds, private_server

from troth.wire.seata.enums import BranchStatus, BranchType, GlobalStatus, MessageType
from troth.wire.seata.frame import Frame
from troth.wire.seata.messages import (
    BranchCommitRequest,
    BranchCommitResponse,
    BranchRegisterRequest,
    BranchRegisterResponse,
    BranchReportRequest,
    BranchReportResponse,
    BranchRollbackRequest,
    BranchRollbackResponse,
    GlobalBeginRequest,
    GlobalBeginResponse,
    GlobalCommitRequest,
    GlobalCommitResponse,
    GlobalRollbackRequest,
    GlobalRollbackResponse,
    RegisterRMRequest,
    RegisterRMResponse,
    RegisterTMRequest,
    RegisterTMResponse,
)
from troth.wire.seata.saga import (
    ANNOUNCEMENT,
    SagaBeginRequest,
    SagaBeginResponse,
    StepRecordRequest,
    StepRecordResponse,
)

RESOURCE = "bench"
CONTEXT = '{"actionContext":{"account":"A","amount":200,"actionName":"bench","note":"' + "x" * 120 + '"}}'
CONNECTIONS = 8
TIMEOUT_MS = 600_000


@dataclass(frozen=True, slots=True)
class Mode:
    """How one mode's branch is registered; `votes`: it reports that it is prepared."""

    name: str
    branch_type: BranchType
    data: str | None
    locks: bool = False
    votes: bool = False


AT, TCC, XA, SAGA = (
    Mode("AT", BranchType.AT, None, locks=True),
    Mode("TCC", BranchType.TCC, CONTEXT),
    Mode("XA", BranchType.XA, '{"txid": "4711", "reports": true}', votes=True),
    Mode("saga", BranchType.SAGA, CONTEXT),
)
MODES = (AT, TCC, XA, SAGA)


class Party(Link):
    """One connection, TM and RM: every request of phase two is answered at once."""

    def handle(self, frame: Frame) -> None:
        body = frame.body
        if isinstance(body, BranchCommitRequest):
            done = BranchStatus.PhaseTwo_Committed
            response = BranchCommitResponse(xid=body.xid, branch_id=body.branch_id, branch_status=done)
            self.send(self.wire.reply(frame, response))
        elif isinstance(body, BranchRollbackRequest):
            undone = BranchStatus.PhaseTwo_Rollbacked
            answer = BranchRollbackResponse(xid=body.xid, branch_id=body.branch_id, branch_status=undone)
            self.send(self.wire.reply(frame, answer))
        elif frame.message_type is MessageType.RESPONSE and frame.request_id not in self.waiting:
            self.tally.fail("answer_unasked", frame)
        else:
            super().handle(frame)

    async def enrol(self) -> None:
        """Register as TM, then as RM."""
        await self.ask(RegisterTMRequest(VERSION, APPLICATION, GROUP, ""), RegisterTMResponse)
        register = RegisterRMRequest(VERSION, APPLICATION, GROUP, ANNOUNCEMENT, RESOURCE)
        await self.ask(register, RegisterRMResponse)


async def begin(link: Link) -> str:
    begun = await link.ask(GlobalBeginRequest(TIMEOUT_MS, "bench"), GlobalBeginResponse)
    expect_success("begin", begun, bool(begun.xid))
    return begun.xid or ""


async def begin_saga(link: Link) -> str:
    begun = await link.ask(SagaBeginRequest(TIMEOUT_MS, "bench", RESOURCE, "{}", TIMEOUT_MS), SagaBeginResponse)
    expect_success("begin", begun, bool(begun.xid))
    return begun.xid or ""


async def branch(link: Link, mode: Mode, xid: str, rows: Iterator[int]) -> None:
    """A branch; of a saga, the record of a step."""
    if mode is SAGA:
        record = StepRecordRequest(xid, 0, str(next(rows)), mode.data, False)
        expect_success("record", await link.ask(record, StepRecordResponse))
        return
    locks = f"bench:{next(rows)},{next(rows)}" if mode.locks else None
    request = BranchRegisterRequest(xid, mode.branch_type, RESOURCE, locks, mode.data)
    registered = await link.ask(request, BranchRegisterResponse)
    expect_success("branch_register", registered)
    if mode.votes:
        status = BranchStatus.PhaseOne_Done
        report = BranchReportRequest(xid, registered.branch_id, status, RESOURCE, mode.data, mode.branch_type)
        expect_success("report", await link.ask(report, BranchReportResponse))


async def commit(link: Link, xid: str) -> None:
    ended = await link.ask(GlobalCommitRequest(xid), GlobalCommitResponse)
    expect_success("commit", ended, ended.global_status is GlobalStatus.Committed)


async def roll_back(link: Link, xid: str) -> None:
    ended = await link.ask(GlobalRollbackRequest(xid), GlobalRollbackResponse)
    expect_success("rollback", ended, ended.global_status is GlobalStatus.Rollbacked)


async def parties(address: str, number: int) -> list[Party]:
    host, _, port = address.rpartition(":")
    tally = Tally(0.0, float("inf"))
    loop = asyncio.get_running_loop()
    made = [(await loop.create_connection(lambda: Party(tally), host, int(port)))[1] for _ in range(number)]
    for party in made:
        await party.enrol()
    return made


@dataclass(frozen=True, slots=True)
class Run:
    """Rates per second; milliseconds of a whole transaction; microseconds of the server's CPU time for one."""

    tx_per_s: float
    p50_ms: float
    cpu_us: float


async def rate(server: PrivateServer, mode: Mode, in_flight: int, seconds: float) -> Run:
    """Transactions of one branch for so many seconds, after a tenth of that to warm up."""
    links = await parties(server.address, min(CONNECTIONS, in_flight))
    rows = count(1)
    times: list[float] = []
    started = time.monotonic()
    window_from, window_to = started + seconds / 10, started + seconds * 1.1

    async def one_after_the_other(link: Party) -> None:
        while (began := time.monotonic()) < window_to:
            xid = await (begin_saga(link) if mode is SAGA else begin(link))
            await branch(link, mode, xid, rows)
            await commit(link, xid)
            if window_from <= (now := time.monotonic()) < window_to:
                times.append(now - began)

    cpu = cpu_seconds(server.process.pid)
    async with asyncio.TaskGroup() as group:
        for number in range(in_flight):
            group.create_task(one_after_the_other(links[number % len(links)]))
    whole = len(times) * 1.1  # the CPU time is of the warm-up, too
    cpu = cpu_seconds(server.process.pid) - cpu
    close(links)
    return Run(len(times) / seconds, statistics.median(times) * 1000, cpu / whole * 1e6)


@dataclass(frozen=True, slots=True)
class Share:
    """Of one branch: microseconds of the whole on the wall, and of the server's CPU time."""

    wall_us: float
    cpu_us: float


async def large(
    server: PrivateServer, mode: Mode, branches: int, total: int, end: Callable[[Link, str], object]
) -> Share:
    """So many transactions of `branches` branches, that `total` branches are ended, one after the other."""
    (link,) = await parties(server.address, 1)
    started, cpu = time.monotonic(), cpu_seconds(server.process.pid)
    for _ in range(total // branches):
        xid = await (begin_saga(link) if mode is SAGA else begin(link))
        rows = count(1)
        for _ in range(branches):
            await branch(link, mode, xid, rows)
        await end(link, xid)  # type: ignore[misc]
    share = (time.monotonic() - started) / total * 1e6, (cpu_seconds(server.process.pid) - cpu) / total * 1e6
    close([link])
    return Share(*share)


def close(links: list[Party]) -> None:
    for link in links:
        if link.tally.errors:
            raise SystemExit(f"the generator saw {dict(link.tally.errors)}: {link.tally.samples}")
        link.close()


def compare_rates(options: argparse.Namespace, directory: Path, tell: Callable[[str], None]) -> None:
    """A table of all modes for each number in flight."""
    for in_flight in options.in_flight:
        runs: dict[str, list[Run]] = {mode.name: [] for mode in MODES}
        for number in range(options.rounds):
            for mode in MODES[number % len(MODES) :] + MODES[: number % len(MODES)]:
                path = directory / f"{mode.name}-{in_flight}-{number}.db"
                with private_server(f"sqlite:///{path}", directory) as server:
                    runs[mode.name].append(asyncio.run(rate(server, mode, in_flight, options.seconds)))
        for mode in MODES:
            mine = runs[mode.name]
            speed = ratio([run.tx_per_s for run in mine], [run.tx_per_s for run in runs["AT"]])
            tx_per_s = statistics.median(run.tx_per_s for run in mine)
            p50_ms = statistics.median(run.p50_ms for run in mine)
            cpu_us = statistics.median(run.cpu_us for run in mine)
            cpu = ratio([run.cpu_us for run in mine], [run.cpu_us for run in runs["AT"]])
            figures = f"{tx_per_s:>8.0f} tx/s  {p50_ms:>7.1f} ms  {cpu_us:>6.0f} µs CPU/tx"
            tell(f"{in_flight:>4} in flight  {mode.name:<4}{figures}  of AT: {speed} tx/s, {cpu} CPU")


def compare_sizes(options: argparse.Namespace, directory: Path, tell: Callable[[str], None]) -> None:
    """What a branch costs in a transaction of ten, and in one of a thousand."""
    for mode, word, end in ((TCC, "commit", commit), (TCC, "rollback", roll_back), (SAGA, "commit", commit)):
        pairs: list[tuple[Share, Share]] = []
        for number in range(options.rounds):
            path = directory / f"{mode.name}-{word}-{number}.db"
            with private_server(f"sqlite:///{path}", directory) as server:
                asyncio.run(large(server, mode, 10, 500, end))
                small = asyncio.run(large(server, mode, 10, 2000, end))
                pairs.append((small, asyncio.run(large(server, mode, 1000, 2000, end))))
        wall = _ratio(pairs, lambda share: share.wall_us)
        cpu = _ratio(pairs, lambda share: share.cpu_us)
        each = statistics.median(small.wall_us for small, _ in pairs)
        figures = f"{each:.0f} µs a branch of ten; of a thousand {wall} of that, {cpu} of its CPU time"
        tell(f"{mode.name} {word}: {figures}")


def _ratio(pairs: list[tuple[Share, Share]], of: Callable[[Share], float]) -> Ratio:
    return ratio([of(big) for _, big in pairs], [of(small) for small, _ in pairs])


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench/modes.py", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of one run (default 3)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each mode (default 5)")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--write", type=Path, help="also write the figures into this page")
    options = parser.parse_args()
    said: list[str] = []

    def tell(line: str) -> None:
        said.append(line)
        print(line, flush=True)

    with tempfile.TemporaryDirectory(prefix="troth-modes-") as directory:
        store = "sqlite, WAL, synchronous=FULL, a fresh file each run"
        facts = conditions(Path(directory), store, "bench/modes.py (Python: often the limit itself)")
        facts["Runs"] = f"{options.rounds} interleaved rounds, {options.seconds:g} s each"
        facts["Command"] = "`bench/modes.py`"
        compare_rates(options, Path(directory), tell)
        compare_sizes(options, Path(directory), tell)
    if options.write:
        shown = "\n".join(["```text", *said, "```", "", *(f"- {name}: {fact}" for name, fact in facts.items())])
        write_into(options.write, shown, "modes")


if __name__ == "__main__":
    main()
