"""Spoiled bytes at the real door: `python tests/fuzz/door.py --inputs 10000000 --seed N`.

The whole coordinator (door, requests, core, engine, memory store) runs in this process without sockets. An honest
client has a transaction with a locked row; another serves phase two of what the fuzzer begins. After every input
nothing may have been raised; all the while the honest transaction is as it was; at the end of every life of the
coordinator no connection, request or resource of an attacker is left, and memory has not grown from life to life.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from frame_mutations import Mutator
from stub_transport import StubTransport

from troth.core.model import Branch
from troth.core.model import BranchType as CoreType
from troth.server.app import Coordinator
from troth.server.inbound.seata_link import SeataLink
from troth.server.sources import load_settings
from troth.wire.seata import messages as m
from troth.wire.seata.connection import Connection
from troth.wire.seata.enums import BranchStatus, BranchType, GlobalStatus
from troth.wire.seata.frame import Frame

SETTINGS = {
    "store": "memory://",
    "port": "off",
    "admin_port": "off",
    "log.level": "error",
    "timeout.max": "1h",
    "timeout.default": "100ms",
    "lock.hot_wait": "20ms",
    "retry.min": "500ms",
    "retry.max": "5s",
    "answer.timeout": "500ms",
    "answer.first_round": "200ms",
    "outcomes.keep": "500ms",
    "outcomes.memory": "300ms",
    "outcomes.memory_max": "1000",
    "outcomes.sweep": "200ms",
    "limits.transactions": "3000",
    "limits.connections": "100",
    "limits.idle": "10m",
}
BYSTANDER_RESOURCE = "jdbc:honest"
SERVED = ("jdbc:fuzz", "jdbc:other")
"""An honest client of the attackers' own application does what they leave in phase two."""
INPUTS_PER_LIFE = 50_000
INPUTS_PER_CONNECTION = 40
CHECK_EVERY = 500
PATIENT_ATTACKERS = 20
ANSWER_WITHIN_S = 10.0
GROWTH_ALLOWED_BYTES = 24 << 20
"""Over all lives but the first two, which fill pools and caches."""


class Complaint(AssertionError):
    """What the door must not do."""


class Errors(logging.Handler):
    """Keeps what was logged as an error: an effect that could not be carried out is one."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class WatchedLink(SeataLink):
    """Remembers why it was dropped."""

    dropped_for = "nobody said why"

    def drop(self, reason: str, **details: Any) -> None:
        self.dropped_for = reason
        super().drop(reason, **details)


class Client:
    """One stub connection at the door."""

    def __init__(self, door: Any, port: int, mutator: Mutator | None = None) -> None:
        self.link = WatchedLink(door, asyncio.get_running_loop())
        self.mutator = mutator
        self.answers: dict[int, m.Message] = {}
        self.statuses: Counter[str] = Counter()
        self.connection = Connection(max_unregistered_bytes=None)
        self.transport = StubTransport(self.link, port, self._hear)
        self.link.connection_made(self.transport)

    def _hear(self, frame: Frame) -> None:
        self.statuses[type(frame.body).__name__] += 1
        if self.mutator is not None:
            self.mutator.learn(frame.body)
        elif isinstance(frame.body, m.BranchCommitRequest | m.BranchRollbackRequest):
            asyncio.get_running_loop().call_soon(self._serve, frame)
        elif not isinstance(frame.body, m.HeartbeatMessage):
            self.answers[frame.request_id] = frame.body

    def _serve(self, frame: Frame) -> None:
        body = frame.body
        assert isinstance(body, m.BranchCommitRequest | m.BranchRollbackRequest)
        commits = isinstance(body, m.BranchCommitRequest)
        kind = m.BranchCommitResponse if commits else m.BranchRollbackResponse
        done = BranchStatus.PhaseTwo_Committed if commits else BranchStatus.PhaseTwo_Rollbacked
        answer = kind(xid=body.xid, branch_id=body.branch_id, branch_status=done)
        if not self.transport.closed:
            self.link.data_received(self.connection.send(self.connection.reply(frame, answer)))

    def ping(self) -> None:
        """Stay: a silent connection is closed."""
        self.link.data_received(self.connection.send(self.connection.ping()))

    async def ask(self, message: m.Message) -> Any:
        frame = self.connection.request(message)
        self.link.data_received(self.connection.send(frame))
        return await self.answer_to(frame.request_id)

    async def answer_to(self, request_id: int) -> Any:
        """The answer to a request of an honest client."""
        deadline = time.monotonic() + ANSWER_WITHIN_S
        while request_id not in self.answers:
            if time.monotonic() > deadline:
                raise Complaint(f"no answer to the honest request {request_id}")
            await asyncio.sleep(0)
        return self.answers.pop(request_id)


class Life:
    """One coordinator, its honest client, and attackers who come and go."""

    def __init__(self, mutator: Mutator, **changes: str) -> None:
        """`changes`: settings that differ from SETTINGS."""
        self._settings = SETTINGS | changes
        self._mutator = mutator
        self._errors = Errors()
        self._raised: list[str] = []
        self._ports = 20_000
        self._patient: list[Client] = []
        """Attackers who stay until all that they asked properly is answered."""
        self.seen: Counter[str] = Counter()

    async def open(self) -> None:
        logging.getLogger("troth").addHandler(self._errors)
        self._level = logging.getLogger("troth").level
        logging.getLogger("troth").setLevel(logging.ERROR)  # warnings name each dropped connection: not here
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self._raised.append(str(context)))
        self.coordinator = Coordinator(load_settings(environment={}, flags=self._settings, read_default_file=False))
        await self.coordinator.start()
        self.door = self.coordinator._door
        self.honest = self._client()
        await self.honest.ask(m.RegisterTMRequest("2.6.0", "honest", "g", ""))
        await self.honest.ask(m.RegisterRMRequest("2.6.0", "honest", "g", "", BYSTANDER_RESOURCE))
        self.server = self._client()
        await self.server.ask(m.RegisterRMRequest("2.6.0", "fuzz", "g", "", ",".join(SERVED)))
        self.xid = (await self.honest.ask(m.GlobalBeginRequest(3_600_000, "honest"))).xid
        await self.honest.ask(m.BranchRegisterRequest(self.xid, BranchType.AT, BYSTANDER_RESOURCE, "t:1"))
        self.picture = repr(self.coordinator.engine.transactions()[self.xid])

    async def close(self) -> None:
        logging.getLogger("troth").removeHandler(self._errors)
        logging.getLogger("troth").setLevel(self._level)
        await self.coordinator.stop()

    def _client(self, mutator: Mutator | None = None) -> Client:
        self._ports += 1
        return Client(self.door, self._ports % 40_000 + 20_000, mutator)

    async def run(self, inputs: int) -> None:
        """Feed `inputs`. Raises Complaint."""
        attacker: Client | None = None
        fed = 0
        for number in range(inputs):
            if attacker is None or attacker.transport.closed or fed >= INPUTS_PER_CONNECTION:
                attacker, fed = await self._next(attacker), 0
            fed += 1
            self._feed(attacker, self._mutator.draw())
            if number % CHECK_EVERY == 0:
                await asyncio.sleep(0)
                await self.check()
            elif fed % 8 == 0:
                await asyncio.sleep(0)
        await self._next(attacker)
        await self.settle()

    async def _next(self, old: Client | None) -> Client:
        """Another connection, registered or not; the old one ends as its owner likes."""
        if old is not None:
            self.seen["dropped by the door" if old.transport.closed else "left by the attacker"] += 1
            self.seen["answers"] += old.statuses.total()
            if old.transport.closed or len(self._patient) >= PATIENT_ATTACKERS:
                old.transport.close()
                await asyncio.sleep(0)
            else:
                self._patient.append(old)
        new = self._client(self._mutator)
        if self._mutator.chance.random() < 0.9:
            self._feed(new, self._mutator.registration())
        return new

    def _feed(self, attacker: Client, data: bytes) -> None:
        for piece in self._mutator.pieces(data):
            if attacker.transport.closed:
                return
            try:
                attacker.link.data_received(piece)
            except Exception as error:
                raise Complaint(f"{type(error).__name__}: {error} came out of the door for {data.hex()}") from error

    async def check(self) -> None:
        """What must hold at any time."""
        if self.coordinator.failure.done():
            raise Complaint(f"the engine failed: {self.coordinator.failure.result()!r}")
        if self._errors.lines or self._raised:
            raise Complaint(f"errors: {self._errors.lines[:3]} {self._raised[:3]}")
        if self.honest.transport.closed or self.server.transport.closed:
            raise Complaint(
                f"an honest connection was closed: {self.honest.link.dropped_for}, {self.server.link.dropped_for}"
            )
        self.server.ping()
        answer = await self.honest.ask(m.GlobalStatusRequest(self.xid))
        if answer.global_status is not GlobalStatus.Begin:
            raise Complaint(f"the honest transaction is {answer.global_status.name}")
        if repr(self.coordinator.engine.transactions()[self.xid]) != self.picture:
            raise Complaint("the honest transaction has changed")

    async def settle(self) -> None:
        """Who asked is answered. Then all attackers go: so must all that they left."""
        deadline = time.monotonic() + 20
        while any(attacker.link._unanswered for attacker in self._patient if not attacker.transport.closed):
            if time.monotonic() > deadline:
                raise Complaint(f"unanswered: {[each.link._open_ids for each in self._patient]}")
            await asyncio.sleep(0.02)
        for link in list(self.door._links):
            if link not in (self.honest.link, self.server.link):
                link._transport.close()
        deadline = time.monotonic() + 20
        engine = self.coordinator.engine
        while time.monotonic() < deadline:
            await self.check()
            if len(self.door._links) == 2 and not engine.locks_queued and self._only_unserved_left():
                return
            await asyncio.sleep(0.02)
        left = [repr(tx) for xid, tx in engine.transactions().items() if xid != self.xid]
        raise Complaint(f"left: {len(self.door._links)} links, {engine.locks_queued} waiters, {left[:3]}")

    def _only_unserved_left(self) -> bool:
        """What is open has a long timeout of its own, or a branch that no client here can serve."""
        now = self.coordinator.engine.clock.now_ms()
        return all(
            tx.begin_ms + tx.timeout_ms > now or not all(map(_is_served, tx.branches.values()))
            for xid, tx in self.coordinator.engine.transactions().items()
            if xid != self.xid
        )


def _is_served(branch: Branch) -> bool:
    """True if the serving client is asked for it; an attacker may have served it first, and refused."""
    return branch.resource_id in SERVED and branch.branch_type is CoreType.AT and not branch.frozen


def resident_bytes() -> int:
    """What this process really has, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


async def fuzz(inputs: int, seed: int, say: Any = print) -> Counter[str]:
    """Feed `inputs` in lives of `INPUTS_PER_LIFE`. Raises Complaint. Gives what was seen."""
    mutator, seen, fed, sizes = Mutator(seed), Counter[str](), 0, []
    started = time.monotonic()
    while fed < inputs:
        life = Life(mutator)
        await life.open()
        try:
            count = min(INPUTS_PER_LIFE, inputs - fed)
            await life.run(count)
        finally:
            await life.close()
        seen += life.seen
        fed += count
        del life
        gc.collect()
        sizes.append(resident_bytes())
        rate = fed / (time.monotonic() - started)
        say(f"{fed:>9} inputs, {rate:,.0f}/s, {sizes[-1] >> 20} MiB, seed {seed}: {dict(seen)}")
    if len(sizes) > 3 and sizes[-1] - sizes[2] > GROWTH_ALLOWED_BYTES:
        raise Complaint(f"memory grows: {[size >> 20 for size in sizes]} MiB")
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    asyncio.run(fuzz(chosen.inputs, chosen.seed))


if __name__ == "__main__":
    main()
