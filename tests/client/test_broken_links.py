"""Many callers while the coordinator keeps breaking the link: every call is settled, none is made up."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from troth.client.client import Client
from troth.client.errors import CoordinatorUnavailable
from troth.client.transaction import transaction
from troth.wire.seata.enums import GlobalStatus
from troth.wire.seata.messages import GlobalBeginRequest, GlobalCommitRequest, GlobalStatusRequest

CALLS = 100


def script_of(coordinator: Any, kind: Any, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(CALLS):
        coordinator.script(kind, coordinator.HAPPY if chance.random() < 0.9 else coordinator.CUT)


@pytest.mark.parametrize("seed", range(2))
def test_threads(coordinator: Any, client: Client, seed: int) -> None:
    script_of(coordinator, GlobalStatusRequest, seed)

    def ask(_: int) -> str:
        try:
            return client.status("x").name
        except CoordinatorUnavailable:
            return "unavailable"

    with ThreadPoolExecutor(8) as pool:
        seen = Counter(pool.map(ask, range(CALLS)))
    assert sum(seen.values()) == CALLS
    assert set(seen) == {"Begin", "unavailable"}


async def test_tasks(coordinator: Any, client: Client) -> None:
    script_of(coordinator, GlobalStatusRequest, 4)

    async def ask() -> GlobalStatus | None:
        try:
            return await client.astatus("x")
        except CoordinatorUnavailable:
            return None

    async def several() -> list[GlobalStatus | None]:
        return [await ask() for _ in range(10)]

    seen = Counter(answer for row in await asyncio.gather(*(several() for _ in range(10))) for answer in row)
    assert sum(seen.values()) == CALLS
    assert set(seen) == {GlobalStatus.Begin, None}


def test_transactions_all_commit(coordinator: Any, client: Client) -> None:
    script_of(coordinator, GlobalBeginRequest, 5)
    script_of(coordinator, GlobalCommitRequest, 6)

    def work(_: int) -> str:
        with transaction(client=client) as tx:
            return tx.xid

    with ThreadPoolExecutor(4) as pool:
        xids = list(pool.map(work, range(40)))
    assert {commit.xid for commit in coordinator.of(GlobalCommitRequest)} == set(xids)
