"""What a step costs, and what is kept, with one and with very many open transactions.

    .venv/bin/python bench/scale.py                      # up to 1,000,000 open transactions, each with two row locks
    .venv/bin/python bench/scale.py --most 100000

Printed are CPU microseconds of a whole transaction in core and scheduler (least of several runs) beside so many open
ones, bytes of memory for each of those, the time to take them up again from the embedded store, and the time from the
start of a process until it is ready for transactions. `tests/server/test_scale.py` asserts what can be counted.
"""

import argparse
import asyncio
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from troth.core import effects as fx
from troth.core import events as ev
from troth.core.cell import Cell
from troth.core.due import due_ms
from troth.core.model import BranchType, Verb
from troth.core.rowkeys import parse_lock_text
from troth.server.scheduler import Scheduler
from troth.stores.sqlite import SqliteStore
from troth.stores.store import Batch

HERE = Path(__file__).parent
RESOURCE, CLIENT = "jdbc:mysql://127.0.0.1:3306/shop", "shop:127.0.0.1:40000"
NOW = 1_800_000_000_000
SIZES = (1, 1_000, 10_000, 100_000, 1_000_000)
ROUNDS, TRANSACTIONS = 7, 500


class Load:
    """A cell with its scheduler, and events for it."""

    def __init__(self) -> None:
        self.cell, self.scheduler, self.last_id = Cell(), Scheduler(), 0

    def decide(self, event: ev.Event) -> None:
        """One turn, as the engine takes it."""
        for xid in self.cell.decide(event, NOW).moved:
            tx = self.cell.transactions.get(xid)
            self.scheduler.set(xid, None if tx is None else due_ms(tx))

    def open(self) -> tuple[str, int]:
        """One transaction with one branch and two row locks."""
        self.last_id += 2
        xid, branch_id = f"127.0.0.1:8091:{self.last_id - 1}", self.last_id
        self.decide(ev.Begin(xid, "purchase", "shop", "default_tx_group", 60_000, None))
        text = f"stock:{branch_id};account:{branch_id}"
        keys = parse_lock_text(RESOURCE, text)
        self.decide(
            ev.Register(xid, branch_id, BranchType.AT, RESOURCE, text, keys, None, True, CLIENT, None, True, None)
        )
        return xid, branch_id

    def whole(self) -> None:
        """One transaction from begin to end."""
        xid, branch_id = self.open()
        self.decide(ev.Commit(xid, None))
        self.decide(ev.Answered(xid, branch_id, Verb.COMMIT, 1, ev.CallResult.DONE, None, CLIENT))


def microseconds(load: Load) -> float:
    """Of a whole transaction."""
    least = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time_ns()
        for _ in range(TRANSACTIONS):
            load.whole()
        least = min(least, (time.process_time_ns() - started) / 1000 / TRANSACTIONS)
    return least


def resident_bytes() -> int:
    """Of this process, now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def flatness(most: int) -> None:
    """Time and memory beside ever more open transactions."""
    load, open_now = Load(), 0
    load.whole()
    empty = resident_bytes()
    first = 0.0
    gc.set_threshold(50_000, 20, 100)  # as the coordinator's process sets it
    for size in (size for size in SIZES if size <= most):
        while open_now < size:
            load.open()
            open_now += 1
        cost = microseconds(load)
        first = first or cost
        memory = f"{(resident_bytes() - empty) / size:7.0f} bytes each" if size >= 10_000 else ""
        print(f"{size:>9,} open: {cost:6.1f} µs/tx, {cost / first:.2f} of alone {memory}", flush=True)


async def recovery(count: int, path: Path) -> None:
    """Write so many open transactions, then take them up as a start does."""
    store = SqliteStore(str(path))
    await store.open()
    for number, start in enumerate(range(0, count, 5_000), start=1):
        writes: list[fx.Write] = []
        for each in range(start, min(start + 5_000, count)):
            xid, text = f"127.0.0.1:8091:{each}", f"stock:{each};account:{each}"
            writes.append(fx.OpenGlobal(xid, "purchase", "shop", "default_tx_group", NOW, 60_000))
            writes.append(fx.AddBranch(xid, count + each, 1, BranchType.AT, RESOURCE, text, None, True, CLIENT))
        await store.append(Batch(number, 2 * count, writes))
    await store.close()
    started = time.perf_counter()
    await store.open()
    hot = await store.load_hot()
    cell, scheduler = Cell(), Scheduler()
    cell.restore(hot.transactions)
    for xid, tx in cell.transactions.items():
        scheduler.set(xid, due_ms(tx))
    print(f"{len(scheduler):>9,} open: taken up again in {time.perf_counter() - started:.1f} s", flush=True)
    await store.close()


def first_transaction(directory: Path) -> None:
    """From the start of a process to its start line."""
    command = [str(Path(sys.executable).parent / "troth"), "serve", "--host", "127.0.0.1", "--port", "0"]
    command += ["--admin-port", "0", "--ready-json", "--store", f"sqlite:///{directory / 'start.db'}"]
    least = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        json.loads(process.stdout.readline())
        least = min(least, time.perf_counter() - started)
        process.terminate()
        process.communicate()
    print(f"start to ready: {least:.2f} s (least of 5)")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench/scale.py", description=__doc__.split("\n")[0])
    parser.add_argument("--most", type=int, default=1_000_000, help="open transactions (default 1000000)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="troth-scale-") as directory:
        first_transaction(Path(directory))
        asyncio.run(recovery(options.most, Path(directory) / "recovery.db"))
    flatness(options.most)


if __name__ == "__main__":
    main()
