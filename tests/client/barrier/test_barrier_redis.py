"""The barrier on Redis beyond what it shares with SQL: one number by one script, and async clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
import redis.asyncio

from troth.client.barrier import Barrier, check_back, message_barrier
from troth.client.errors import BranchFailed, NotSupported
from troth.client.modes.barrier import AlreadyDone
from troth.client.modes.fence import LateTry


@pytest.fixture
def client(barrier_redis: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(barrier_redis) as opened:
        opened.flushall()
        opened.set("stock", 100)
        yield opened


def call_of(op: str, gid: str = "g") -> Barrier:
    return Barrier(gid, "01", op, "saga")


def test_a_number_is_moved_once(client: redis.Redis) -> None:
    assert call_of("action").adjust(client, "stock", -30) is True
    assert call_of("action").adjust(client, "stock", -30) is False
    assert client.get("stock") == b"70"
    assert client.get("g-01-action-01") == b"op"
    assert 0 < client.ttl("g-01-action-01") <= 7 * 86400


def test_a_number_does_not_fall_below_nothing_and_its_repeat_is_still_one(client: redis.Redis) -> None:
    with pytest.raises(BranchFailed, match="below 0"):
        call_of("action").adjust(client, "stock", -101)
    with pytest.raises(BranchFailed, match="not there"):
        call_of("action").adjust(client, "no such number", 1)
    assert client.exists("g-01-action-01") == 0
    assert call_of("action").adjust(client, "stock", -100) is True
    assert call_of("action").adjust(client, "stock", -100) is False  # done, though it could not be done now


def test_a_reversal_that_comes_first_does_nothing_and_bars(client: redis.Redis) -> None:
    assert call_of("compensate").adjust(client, "stock", 30) is False
    with pytest.raises(LateTry):
        call_of("action").adjust(client, "stock", -30)
    assert client.get("stock") == b"100"
    assert client.get("g-01-action-01") == b"rollback"


def test_what_was_reversed_is_late_when_it_comes_again(client: redis.Redis) -> None:
    call_of("action").adjust(client, "stock", -30)
    assert call_of("compensate").adjust(client, "stock", 30) is True
    assert call_of("compensate").adjust(client, "stock", 30) is False
    client.delete("g-01-action-01")  # expired, say
    with pytest.raises(LateTry):
        call_of("action").adjust(client, "stock", -30)
    assert client.get("stock") == b"100"


def test_a_message_on_redis(client: redis.Redis) -> None:
    assert message_barrier("m").adjust(client, "stock", -30) is True
    with pytest.raises(AlreadyDone):
        message_barrier("m").adjust(client, "stock", -30)
    assert check_back(client, "m") is True
    assert check_back(client, "other") is False
    with pytest.raises(LateTry):
        message_barrier("other").adjust(client, "stock", -30)
    assert client.get("stock") == b"70"


def test_another_that_moves_the_key_at_the_same_moment_is_seen(client: redis.Redis) -> None:
    def overtaken(pipeline: redis.client.Pipeline) -> None:
        pipeline.decrby("stock", 30)
        client.set("g-01-try-01", "rollback")

    with pytest.raises(LateTry, match="same moment"):
        call_of("try").call(client, overtaken)
    assert client.get("stock") == b"100"


async def test_async_clients(client: redis.Redis, barrier_redis: str) -> None:
    async with redis.asyncio.Redis.from_url(barrier_redis, decode_responses=True) as opened:
        assert await call_of("try").aadjust(opened, "stock", -30) is True
        for _ in range(2):
            await call_of("cancel").acall(opened, lambda pipeline: pipeline.incrby("stock", 30))
        with pytest.raises(LateTry):
            await call_of("try").aadjust(opened, "stock", -30)
        with pytest.raises(NotSupported, match="blocking"):
            call_of("try").adjust(opened, "stock", 1)
    assert client.get("stock") == b"100"
