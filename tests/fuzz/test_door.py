"""The fuzzed door, in short and in long; what it has found; and that its complaints are real ones."""

from __future__ import annotations

import secrets

import pytest
from door import Complaint, Life, fuzz
from frame_mutations import Mutator, is_whole_frame

from troth.server.inbound.seata_requests import Requests
from troth.wire.seata import messages as m

INPUTS = 20_000
LONG = 10_000_000


async def test_spoiled_bytes_touch_nobody_else() -> None:
    seed = secrets.randbelow(1_000_000)
    print(f"again: python tests/fuzz/door.py --inputs {INPUTS} --seed {seed}")
    seen = await fuzz(INPUTS, seed)
    assert seen["dropped by the door"] > INPUTS // 20
    assert seen["answers"] > INPUTS // 20


@pytest.mark.soak
async def test_ten_million() -> None:
    seed = secrets.randbelow(1_000_000)
    print(f"again: python tests/fuzz/door.py --inputs {LONG} --seed {seed}")
    await fuzz(LONG, seed)


def test_the_seed_fixes_the_inputs_and_they_are_of_both_kinds() -> None:
    first, again = Mutator(5), Mutator(5)
    drawn = [first.draw() for _ in range(500)]
    assert drawn == [again.draw() for _ in range(500)]
    whole = sum(map(is_whole_frame, drawn))
    assert 100 < whole < 400


@pytest.mark.parametrize("version", ["2.6.0", "1.4.2"])
async def test_found_merged_requests_without_ids(version: str) -> None:
    """A client of a version that is answered by id, without ids: an IndexError came out of the door."""
    life = Life(Mutator(1))
    await life.open()
    try:
        client = life._client()
        await client.ask(m.RegisterTMRequest(version, "old", "g", ""))
        frame = client.connection.oneway(
            m.MergedWarpMessage((m.GlobalStatusRequest("a"), m.GlobalBeginRequest(1, "x")), ())
        )
        client.link.data_received(client.connection.send(frame))
        merged = await client.answer_to(frame.request_id)
        assert isinstance(merged, m.MergeResultMessage)
        assert [type(answer) for answer in merged.msgs] == [m.GlobalStatusResponse, m.GlobalBeginResponse]
        await life.check()
    finally:
        await life.close()


async def test_an_empty_merged_request_is_answered() -> None:
    life = Life(Mutator(1))
    await life.open()
    try:
        client = life._client()
        await client.ask(m.RegisterTMRequest("2.6.0", "odd", "g", ""))
        frame = client.connection.oneway(m.MergedWarpMessage((), ()))
        client.link.data_received(client.connection.send(frame))
        assert await client.answer_to(frame.request_id) == m.BatchResultMessage((), ())
        await life.check()
    finally:
        await life.close()


async def test_an_exception_out_of_the_door_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise IndexError("planted")

    monkeypatch.setattr(Requests, "handle_merged", broken)
    with pytest.raises(Complaint, match="IndexError: planted"):
        await fuzz(2_000, 1)


async def test_a_touched_bystander_is_noticed() -> None:
    life = Life(Mutator(1))
    await life.open()
    try:
        attacker = life._client()
        await attacker.ask(m.RegisterTMRequest("2.6.0", "thief", "g", ""))
        await attacker.ask(m.GlobalReportRequest(life.xid, None, m.GlobalStatus.Rollbacking))
        with pytest.raises(Complaint, match="honest transaction"):
            await life.check()
    finally:
        await life.close()
