"""Bytes from strangers: a `WireError` with reason and offset, and nothing else, ever."""

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.wire.seata import messages as m
from troth.wire.seata.connection import Connection
from troth.wire.seata.enums import BranchType, CompressorType, MessageType, ResultCode, SerializerType
from troth.wire.seata.envelope import MAX_FRAME_LENGTH, Frame
from troth.wire.seata.errors import WireError
from troth.wire.seata.frame import decode_frame, encode_frame

LINES = (Path(__file__).parent / "data" / "vectors.jsonl").read_text(encoding="utf-8").splitlines()
SHORT_FRAMES = [data for data in (bytes.fromhex(json.loads(line)["frame_hex"]) for line in LINES) if len(data) < 2000]


def v1(
    body: str, *, kind: int = 0, codec: int = 1, compressor: int = 0, head: str = "", length: int | None = None
) -> bytes:
    head_map, content = bytes.fromhex(head), bytes.fromhex(body)
    full = 16 + len(head_map) + len(content) if length is None else length
    fixed = struct.pack(">2sBiHBBBi", b"\xda\xda", 1, full, 16 + len(head_map), kind, codec, compressor, 1)
    return fixed + head_map + content


def v0(code: int, body: str, *, flags: int = 0x90) -> bytes:
    return struct.pack(">2sHHq", b"\xda\xda", flags, code, 1) + bytes.fromhex(body)


def frame(body: m.Message, **changes: object) -> Frame:
    values = {
        "protocol_version": 1,
        "message_type": MessageType.REQUEST,
        "codec": SerializerType.SEATA,
        "compressor": CompressorType.NONE,
        "request_id": 1,
        "head_map": {},
        "body": body,
    }
    return Frame(**{**values, **changes})


@pytest.mark.parametrize(
    ("data", "reason", "offset"),
    [
        (b"", "ends inside its head", 0),
        (b"\xda", "ends inside its head", 1),
        (b"GET / HTTP/1.1\r\n\r\n", "wrong magic 4745", 0),
        (b"\xda\x00", "wrong magic da00", 0),
        (b"\xda\xda\x09", "unknown protocol version 9", 2),
        (v1("")[:15], "ends after 15 bytes", 15),
        (v1("", length=MAX_FRAME_LENGTH + 1), "8388609 bytes where 8388608", 3),
        (v1("", length=15), "shorter than the head", 3),
        (v1("", length=-1), "shorter than the head", 3),
        (v1("", head="ffff", length=17), "head length 18 in a frame of 17", 7),
        (v1("0007 0000 0000")[:-1], "ends after 21 bytes", 21),
        (v1("0007 0000 0000") + b"\0", "behind the end of the frame", 22),
        (v1("0007 0000 0000 00"), "1 bytes behind the end of GlobalCommitRequest", 22),
        (v1("0007 0000 00"), "in the middle of a field", 21),
        (v1("0007 0000"), "in the middle of a field", 20),
        (v1("00"), "needs a type code", 16),
        (v1(""), "needs a type code", 16),
        (v1("0007 0003 6162 0000"), "in the middle of a field", 24),
        (v1("0007 ffff 0000"), "negative text length -1", 18),
        (v1("0007 0001 ff 0000"), "not valid UTF-8", 20),
        (v1("0007 0003 eda080 0000"), "not valid UTF-8", 20),
        (v1("0063 0000"), "unknown message type code 99", 18),
        (v1("0000"), "unknown message type code 0", 18),
        (v1("ffff"), "unknown message type code 65535", 18),
        (v1("0078"), "unknown message type code 120", 18),
        (v1("0007 0000 0000", kind=5), "unknown message type 5", 9),
        (v1("0007 0000 0000", codec=3), "unknown codec 3", 10),
        (v1("0007 0000 0000", codec=2), "codec PROTOBUF is not supported", 10),
        (v1("0007 0000 0000", compressor=8), "unknown compressor 8", 11),
        (v1("0007 0000 0000", compressor=3), "SEVENZ is not supported", 16),
        (v1("0007 0000 0000", compressor=1), "GZIP body cannot be decompressed", 16),
        (v1("00", kind=3), "1 bytes of body in a heartbeat", 16),
        (v1("", kind=3, codec=3), "unknown codec 3", 10),
        (v1("000b 0000 05 0000 00000000 00000000"), "unknown BranchType 5", 20),
        (v1("000b 0000 00 0000 ffffffff 00000000"), "negative text length -1", 23),
        (v1("000b 0000 00 0000 7fffffff 00000000"), "goes past the end", 23),
        (v1("000d 0000 0000000000000000 0f 0000 00000000 00"), "unknown BranchStatus 15", 28),
        (v1("0008 02 00 00"), "unknown ResultCode 2", 18),
        (v1("0008 01 18 00"), "unknown TransactionExceptionCode 24", 19),
        (v1("0008 01 00 15"), "unknown GlobalStatus 21", 20),
        (v1("0011 0000 0000 15"), "unknown GlobalStatus 21", 22),
        (v1("0008 00 ffff 00 00"), "negative text length", 19),
        (v1("003b 00000001 0000"), "merged messages of 1 bytes", 18),
        (v1("003b ffffffff 0000"), "merged messages of -1 bytes", 18),
        (v1("003b 00000100 0000"), "go past the end", 18),
        (v1("003b 00000002 ffff"), "-1 merged messages", 22),
        (v1("003b 00000002 0001"), "0 merged messages where 1", 24),
        (v1("003b 00000004 0001 0007"), "in the middle of a field", 26),
        (v1("003b 0000000a 0001 0007 0000 0000 0000"), "0 message ids for 1", 30),
        (v1("003b 00000003 0000 00"), "1 bytes behind the last merged", 24),
        (v1("003b 00000008 0001 003b 00000000"), "type 59 inside merged", 24),
        (v1("003c 00000008 0001 0007 0000 0000"), "GlobalCommitRequest among results", 18),
        (v1("0079 00000008 0001 000c 0100 0000"), "in the middle of a field", 30),
        (v1("0007 0000 0000", head="00"), "middle of a pair", 16),
        (v1("0007 0000 0000", head="0001"), "past the end of the head map", 16),
        (v1("0007 0000 0000", head="000161"), "middle of a pair", 19),
        (v1("0007 0000 0000", head="ffff0000"), "null key", 16),
        (v1("0007 0000 0000", head="fffe0000"), "negative text length -2", 16),
        (v1("0007 0000 0000", head="0001ff0000"), "head map is not valid UTF-8", 18),
        (v0(7, "0000 0000")[:-1], "ends after 17 bytes", 17),
        (v0(7, "0000 0000 00"), "behind the end of the frame", 18),
        (v0(0xFFFF, ""), "unknown message type code 65535", 14),
        (v0(7, "0000 0000", flags=0x80), "codec HESSIAN is not supported", 3),
        (v0(11, "0000 00 0000 7fffffff"), "where 8388608 are allowed", 19),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused_with_reason_and_offset(data: bytes, reason: str, offset: int) -> None:
    with pytest.raises(WireError, match=reason) as caught:
        decode_frame(data)
    assert caught.value.offset == offset


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (frame(m.GlobalCommitRequest("x" * 32768)), "32768 bytes"),
        (frame(m.GlobalCommitRequest("é" * 16384)), "32768 bytes"),
        (frame(m.GlobalCommitRequest("\ud800")), "surrogates"),
        (frame(m.GlobalBeginRequest(1 << 31)), "GlobalBeginRequest: "),
        (frame(m.UndoLogDeleteRequest(BranchType.AT, "r", 40000)), "UndoLogDeleteRequest: "),
        (frame(m.BranchRegisterResponse(branch_id=1 << 63)), "BranchRegisterResponse: "),
        (frame(m.GlobalCommitRequest("x"), request_id=1 << 31), "does not fit into 32 bits"),
        (frame(m.GlobalCommitRequest("x"), request_id=1 << 63, protocol_version=0), "does not fit into 64 bits"),
        (frame(m.GlobalCommitRequest("x"), protocol_version=2), "unknown protocol version 2"),
        (frame(m.GlobalCommitRequest("x"), codec=SerializerType.KRYO), "codec KRYO"),
        (frame(m.GlobalCommitRequest("x"), codec=SerializerType.KRYO, protocol_version=0), "codec KRYO"),
        (frame(m.GlobalCommitRequest("x"), compressor=CompressorType.SEVENZ), "SEVENZ is not supported"),
        (frame(m.GlobalCommitRequest("x"), compressor=CompressorType.GZIP, protocol_version=0), "no compressor"),
        (frame(m.GlobalCommitRequest("x"), head_map={"k": "v"}, protocol_version=0), "no head map"),
        (frame(m.GlobalCommitRequest("x"), head_map={"k": "v" * 32768}), "32768 bytes in the head map"),
        (frame(m.GlobalCommitRequest("x"), head_map={"k": "v" * 32750}), "head map of 32755 bytes"),
        (frame(m.GlobalCommitRequest("x"), message_type=MessageType.HEARTBEAT_PING), "which has no body"),
        (frame(m.HeartbeatMessage()), "no body of its own"),
        (frame(m.BranchRegisterRequest("x", BranchType.AT, "r", "k" * MAX_FRAME_LENGTH)), "are allowed"),
        (frame(m.MergedWarpMessage((m.GlobalCommitRequest("x"),), (1, 2))), "2 message ids for 1"),
        (frame(m.BatchResultMessage((m.BranchReportResponse(),), ())), "0 message ids for 1"),
        (frame(m.MergeResultMessage((m.GlobalCommitRequest("x"),))), "among results"),
        (frame(m.MergedWarpMessage((m.MergedWarpMessage((), ()),), (1,))), "inside merged"),
        (frame(m.MergedWarpMessage((m.HeartbeatMessage(),), (1,))), "no body of its own"),
    ],
)
def test_what_the_protocol_cannot_carry_is_not_written(written: Frame, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        encode_frame(written)


def test_longest_texts_pass() -> None:
    request = m.GlobalCommitRequest("x" * 32767, "é" * 16383)
    assert decode_frame(encode_frame(frame(request))).body == request


@pytest.mark.parametrize("text", ["m" * 40000, "é" * 20000, "x" + "é" * 20000, "😀" * 10000])
def test_a_long_failure_text_loses_its_end_but_no_half_character(text: str) -> None:
    sent = m.GlobalCommitResponse(ResultCode.Failed, text)
    read = decode_frame(encode_frame(frame(sent))).body.msg
    assert text.startswith(read)
    assert 32764 <= len(read.encode()) <= 32767


@pytest.mark.parametrize("msg_ids", [(), (7,)])
def test_merged_without_ids_is_read_as_old_clients_send_it(msg_ids: tuple[int, ...]) -> None:
    merged = m.MergedWarpMessage((m.GlobalCommitRequest("x"),), msg_ids)
    for version in (0, 1):
        sent = frame(merged, protocol_version=version, message_type=MessageType.ONEWAY)
        assert decode_frame(encode_frame(sent)) == sent


def feed(data: bytes, cut: int) -> None:
    connection = Connection()
    refusal = None
    try:
        connection.receive_data(data[:cut])
        connection.receive_data(data[cut:])
    except WireError as error:
        refusal = error
    assert refusal is None or (refusal.reason and refusal.offset >= 0)


@given(st.binary(max_size=200), st.integers(0, 200))
def test_random_bytes(data: bytes, cut: int) -> None:
    feed(data, cut)


@given(
    st.sampled_from(SHORT_FRAMES),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4),
    st.integers(-20, 20),
    st.integers(0, 2000),
)
def test_mutated_frames(data: bytes, changes: list[tuple[int, int]], resize: int, cut: int) -> None:
    mutated = bytearray(data)
    for position, value in changes:
        mutated[position % len(mutated)] = value
    mutated = mutated[:resize] if resize < 0 else mutated + bytes(resize)
    feed(bytes(mutated), cut % (len(mutated) + 1))


@given(st.sampled_from([1, 2, 4, 5, 6, 7]), st.binary(max_size=100))
def test_random_compressed_bodies(compressor: int, packed: bytes) -> None:
    with pytest.raises(WireError):
        decode_frame(v1(packed.hex(), compressor=compressor))


@given(st.sampled_from(list(range(130))), st.binary(max_size=80))
def test_random_bodies(code: int, body: bytes) -> None:
    feed(v1(struct.pack(">H", code).hex() + body.hex()), 16)
    feed(v0(code, body.hex()), 14)
