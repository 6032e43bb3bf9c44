"""`troth.embedded()`: a whole coordinator inside the process."""

import threading
from datetime import timedelta
from pathlib import Path

import pytest

import troth
from troth.client.errors import NotInitialised
from troth.wire.seata.enums import GlobalStatus


def coordinator_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("troth")]


def test_the_client_is_initialised_to_it_and_everything_goes_with_the_block() -> None:
    with troth.embedded(retry__min="50ms") as client:
        with troth.transaction(name="one") as tx:
            assert tx.status() is GlobalStatus.Begin
        assert client.status(tx.xid) is GlobalStatus.Committed
        xid = tx.xid
    assert xid
    assert coordinator_threads() == []
    with pytest.raises(NotInitialised), troth.transaction(name="two"):
        pass


async def test_async() -> None:
    async with troth.embedded() as client:
        async with troth.transaction(name="one") as tx:
            pass
        assert await client.astatus(tx.xid) is GlobalStatus.Committed
    assert coordinator_threads() == []


def test_a_timeout_is_kept() -> None:
    with troth.embedded(timeout__max=timedelta(seconds=1)), pytest.raises(troth.CoordinatorRefused):
        troth.transaction(name="long", timeout=timedelta(seconds=2)).__enter__()


def test_a_file_store_remembers(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/embedded.db"
    with troth.embedded(store=store), troth.transaction(name="one") as tx:
        pass
    with troth.embedded(store=store) as client:
        assert client.status(tx.xid) is GlobalStatus.Committed


def test_two_cannot_hold_one_store(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/embedded.db"
    with (
        troth.embedded(store=store),
        pytest.raises(RuntimeError, match="cannot start: store"),
        troth.embedded(store=store),
    ):
        pass
    assert coordinator_threads() == []


def test_mistakes_are_raised_where_it_is_entered() -> None:
    with pytest.raises(ValueError, match=r"retry\.mim"), troth.embedded(retry__mim="1s"):
        pass
    with pytest.raises(TypeError, match="no_such_knob"), troth.embedded(no_such_knob=1):
        pass
    with pytest.raises(RuntimeError, match="no store is known"), troth.embedded(store="redis://x"):
        pass
    assert coordinator_threads() == []


def test_one_object_runs_once_at_a_time() -> None:
    one = troth.embedded()
    with one, pytest.raises(RuntimeError, match="runs already"), one:
        pass
    with one:
        assert one.address.startswith("127.0.0.1:")
    with pytest.raises(RuntimeError, match="only inside"):
        _ = one.address
