"""Processes that die, or sleep, at a named moment of the protocol: the proxy sees the moment go by and strikes."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable

from bank import TMS, Bank
from bank_settings import BANKS
from fault import Fault, Moment, again_and_again
from fault_proxy import PASSES, Passing

_IN_ITS_WORK_S = 0.01
"""What comes of a message has happened, or happens, so long after it has gone by."""

Strike = Callable[[Bank, random.Random, float], int]


def _kill_at(kind: str, victim: Callable[[Bank, Passing], None], *, lost: bool) -> Callable[[Bank, random.Random], str]:
    """Kill `victim` when a frame of `kind` goes by, or a moment after it unless it is lost; the client of that way."""

    def once(bank: Bank, chance: random.Random) -> str:
        clients: list[str] = []
        later_s = 0.0 if lost else chance.choice((0.0, chance.uniform(0.0, 0.002), chance.uniform(0.0, _IN_ITS_WORK_S)))

        def strike(passing: Passing) -> None:
            clients.append(passing.client)
            if later_s:
                threading.Timer(later_s, victim, (bank, passing)).start()
            else:
                victim(bank, passing)

        moment = Moment(kind, strike, lost=lost, skip=chance.randrange(8))
        bank.proxy.rule = moment
        moment.wait()
        bank.proxy.rule = lambda _: PASSES
        return clients[0]

    return once


def coordinator_killed(kind: str, *, lost: bool) -> Strike:
    def strike(bank: Bank, chance: random.Random, during_s: float) -> int:
        def once() -> None:
            _kill_at(kind, lambda bank, _: bank.kill_coordinator(), lost=lost)(bank, chance)
            bank.restart_coordinator()
            time.sleep(chance.uniform(0.1, 0.8))

        return again_and_again(during_s, once)

    return strike


def worker_killed(kind: str, *, lost: bool) -> Strike:
    """Whoever sends or is to get that frame dies; it is started again a little later."""

    def strike(bank: Bank, chance: random.Random, during_s: float) -> int:
        def once() -> None:
            client = _kill_at(kind, lambda bank, passing: bank.workers[passing.client].kill(), lost=lost)(bank, chance)
            time.sleep(chance.uniform(2 * _IN_ITS_WORK_S, 0.3))
            bank.restart(client)

        return again_and_again(during_s, once)

    return strike


def service_killed_after_local_commit(bank: Bank, chance: random.Random, during_s: float) -> int:
    """A global commit is asked for when all services have committed locally: one of them dies now."""

    def once() -> None:
        victim = chance.choice(BANKS)
        _kill_at("GlobalCommitRequest", lambda bank, _: bank.workers[victim].kill(), lost=False)(bank, chance)
        time.sleep(chance.uniform(2 * _IN_ITS_WORK_S, 0.3))
        bank.restart(victim)

    return again_and_again(during_s, once)


def coordinator_killed_at_random(bank: Bank, chance: random.Random, during_s: float) -> int:
    def once() -> None:
        time.sleep(chance.uniform(0.05, 0.7))
        bank.kill_coordinator()
        bank.restart_coordinator()

    return again_and_again(during_s, once)


def everybody_killed(bank: Bank, chance: random.Random, during_s: float) -> int:
    """Coordinator, services and programs at the same time: a power cut but for the databases."""

    def once() -> None:
        time.sleep(chance.uniform(0.05, 0.5))
        bank.kill_coordinator()
        for name in (*BANKS, *TMS):
            bank.workers[name].kill()
        bank.restart_coordinator()
        for name in (*BANKS, *TMS):
            bank.restart(name)

    return again_and_again(during_s, once)


def coordinator_paused(bank: Bank, chance: random.Random, during_s: float) -> int:
    def once() -> None:
        time.sleep(chance.uniform(0.05, 0.4))
        bank.coordinator.signal(signal.SIGSTOP)
        time.sleep(chance.choice((0.4, 1.5, 3.5)))
        bank.coordinator.signal(signal.SIGCONT)

    return again_and_again(during_s, once)


def service_paused(bank: Bank, chance: random.Random, during_s: float) -> int:
    """Past every patience: the others go on without it, and then it wakes in the middle of a statement."""

    def once() -> None:
        time.sleep(chance.uniform(0.05, 0.4))
        victim = bank.workers[chance.choice(BANKS)]
        victim.pause()
        time.sleep(chance.choice((0.5, 2.0, 5.5)))
        victim.resume()

    return again_and_again(during_s, once)


FAULTS = (
    Fault(
        "tc-killed-before-begin-answer",
        "coordinator killed after the begin is written, before its answer",
        coordinator_killed("GlobalBeginResponse", lost=True),
    ),
    Fault(
        "tc-killed-at-register",
        "coordinator killed as a branch is being registered",
        coordinator_killed("BranchRegisterRequest", lost=False),
    ),
    Fault(
        "tc-killed-at-commit",
        "coordinator killed as a commit comes in, before or in its write",
        coordinator_killed("GlobalCommitRequest", lost=False),
    ),
    Fault(
        "tc-killed-before-commit-answer",
        "coordinator killed after the commit is written, before its answer",
        coordinator_killed("GlobalCommitResponse", lost=True),
    ),
    Fault(
        "tc-killed-in-phase-two",
        "coordinator killed as a branch answers its rollback",
        coordinator_killed("BranchRollbackResponse", lost=False),
    ),
    Fault(
        "rm-killed-before-local-commit",
        "service killed when its branch is registered, before it commits locally",
        worker_killed("BranchRegisterResponse", lost=True),
    ),
    Fault(
        "rm-killed-after-local-commit",
        "service killed after its local commit, as the global commit is asked for",
        service_killed_after_local_commit,
    ),
    Fault(
        "rm-killed-before-undo",
        "service killed as it is told to roll back",
        worker_killed("BranchRollbackRequest", lost=False),
    ),
    Fault(
        "rm-killed-after-undo",
        "service killed after its rollback, before its answer",
        worker_killed("BranchRollbackResponse", lost=True),
    ),
    Fault(
        "rm-killed-before-undo-delete",
        "service killed as it is told to commit",
        worker_killed("BranchCommitRequest", lost=False),
    ),
    Fault(
        "rm-killed-after-undo-delete",
        "service killed after it has deleted its undo rows, before its answer",
        worker_killed("BranchCommitResponse", lost=True),
    ),
    Fault(
        "tm-killed-before-commit",
        "program killed as it asks for the commit, which is lost",
        worker_killed("GlobalCommitRequest", lost=True),
    ),
    Fault(
        "tm-killed-after-commit",
        "program killed before it hears that it is committed",
        worker_killed("GlobalCommitResponse", lost=True),
    ),
    Fault("tc-killed-at-random", "coordinator killed at random moments", coordinator_killed_at_random),
    Fault("all-killed", "coordinator, services and programs killed at once", everybody_killed),
    Fault("tc-paused", "coordinator stopped (SIGSTOP) up to 3.5 s", coordinator_paused),
    Fault("rm-paused", "service stopped (SIGSTOP) up to 5.5 s, past the transaction's timeout", service_paused),
)
