"""Seata 2.6.0's own frames: read as Seata reads them, written as Seata writes them."""

import json
from pathlib import Path

import pytest

from troth.wire.seata import enums
from troth.wire.seata.connection import Connection
from troth.wire.seata.errors import WireError
from troth.wire.seata.frame import decode_frame, encode_frame, raw_body
from troth.wire.seata.json import frame_to_object, object_to_frame

UNREADABLE = "branch_register.xid_over_32767"
OUR_PING = "v0.heartbeat.ping"
SHOWN = ("type", "type_code", "protocol_version", "codec", "compressor", "request_id", "head_map", "body_hex")


def test_frame_decodes_to_its_fields(vector: dict) -> None:
    data = bytes.fromhex(vector["frame_hex"])
    if vector["name"] == UNREADABLE:
        with pytest.raises(WireError, match="negative text length -25536"):
            decode_frame(data)
        return
    expected = {key: vector[key] for key in SHOWN if key in vector}
    expected["fields"] = vector.get("decoded_fields", vector["fields"])
    expected["message_type"] = vector.get("decoded_message_type", vector["message_type"])
    assert frame_to_object(data) == expected


def test_body_encodes_from_its_fields(vector: dict) -> None:
    shown = {key: value for key, value in vector.items() if key not in ("body_hex", "frame_hex")}
    if vector["name"] == UNREADABLE:
        with pytest.raises(WireError, match="40000 bytes"):
            object_to_frame(shown)
        return
    data = object_to_frame(shown)
    assert raw_body(data).hex() == vector["body_hex"]
    if vector["name"] == OUR_PING:
        assert data.hex() == "dada00b000000000000000000007"
    elif vector["compressor"] == "NONE":
        assert data.hex() == vector["frame_hex"]
    else:
        assert decode_frame(data) == decode_frame(bytes.fromhex(vector["frame_hex"]))


def test_frame_encodes_again_to_the_same_bytes(vector: dict) -> None:
    lossy_for_seata_too = ("reg_rm.null_version", "reg_tm_result.nulls", "undo_log_delete.null_resource")
    if vector["name"] in (UNREADABLE, *lossy_for_seata_too) or vector["compressor"] != "NONE":
        return
    data = bytes.fromhex(vector["frame_hex"])
    assert encode_frame(decode_frame(data)) == data


def test_connection_reads_it_byte_by_byte(vector: dict) -> None:
    if vector["name"] == UNREADABLE or len(vector["frame_hex"]) > 4000:
        return
    data = bytes.fromhex(vector["frame_hex"])
    connection = Connection(max_unregistered_bytes=None)
    frames = [frame for byte in data for frame in connection.receive_data(bytes((byte,)))]
    assert frames == [decode_frame(data)]


def test_enums_are_seatas() -> None:
    table = json.loads((Path(__file__).parent / "data" / "enums.json").read_text())
    del table["seata_version"]
    codes = table.pop("MessageType")
    for name, members in table.items():
        ours = getattr(enums, name)
        assert {member.name: member.value for member in ours} == members
    assert sorted(codes.values()) == sorted(enums.TypeCode)
