"""The short way of usual frames writes the same bytes, and refuses the same, as the general one."""

import pytest

from troth.wire.seata import messages as m
from troth.wire.seata.connection import Connection
from troth.wire.seata.enums import CompressorType, MessageType, SerializerType
from troth.wire.seata.envelope import MAX_FRAME_LENGTH, NO_HEAD_MAP, Frame
from troth.wire.seata.errors import WireError
from troth.wire.seata.frame import decode_frame

WAYS = [(0, CompressorType.NONE), (1, CompressorType.NONE), (1, CompressorType.GZIP)]


def connection(version: int = 1, compressor: CompressorType = CompressorType.NONE) -> Connection:
    return Connection(max_unregistered_bytes=None, protocol_version=version, compressor=compressor)


def asked(version: int = 1, compressor: CompressorType = CompressorType.NONE, request_id: int = 7) -> Frame:
    ping = m.HeartbeatMessage()
    return Frame(version, MessageType.REQUEST, SerializerType.SEATA, compressor, request_id, NO_HEAD_MAP, ping)


def message_of(vector: dict) -> m.Message | None:
    """None for what is neither a request nor an answer, and for the one frame of Seata that nobody can read."""
    if vector["name"] == "branch_register.xid_over_32767":
        return None
    message = decode_frame(bytes.fromhex(vector["frame_hex"])).body
    return None if isinstance(message, m.HeartbeatMessage) else message


def test_an_answer(vector: dict) -> None:
    message = message_of(vector)
    if message is None:
        return
    for version, compressor in WAYS:
        end, frame = connection(), asked(version, compressor)
        assert end.answer(frame, message) == end.send(end.reply(frame, message))


def test_a_question(vector: dict) -> None:
    message = message_of(vector)
    if message is None:
        return
    for version, compressor in WAYS:
        short, general = connection(version, compressor), connection(version, compressor)
        for _ in range(2):  # the ids count up on both ways
            frame = general.request(message)
            assert short.ask(message) == (frame.request_id, general.send(frame))


def test_head_maps_of_questions_are_not_repeated() -> None:
    frame = Frame(1, MessageType.REQUEST, SerializerType.SEATA, CompressorType.NONE, 3, {"a": "b"}, asked().body)
    answer = decode_frame(connection().answer(frame, m.GlobalCommitResponse()))
    assert (answer.request_id, answer.head_map) == (3, {})


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (asked(request_id=1 << 40), m.GlobalCommitResponse()),
        (asked(), m.BranchRegisterRequest("x", m.BranchType.AT, "r", "k" * MAX_FRAME_LENGTH)),
        (asked(), m.GlobalBeginResponse(xid="x" * 40_000)),
        (asked(), m.GlobalBeginResponse(xid="\ud800")),
        (asked(), m.HeartbeatMessage()),
    ],
    ids=["id too wide", "frame too long", "text too long", "half a character", "no body"],
)
def test_what_cannot_be_carried_is_refused_alike(frame: Frame, message: m.Message) -> None:
    end = connection()
    with pytest.raises(WireError) as short:
        end.answer(frame, message)
    with pytest.raises(WireError) as general:
        end.send(end.reply(frame, message))
    assert (short.value.reason, short.value.offset) == (general.value.reason, general.value.offset)
