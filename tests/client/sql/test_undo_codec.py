"""Undo rows of real Java clients decode, and encode to what was decoded."""

from __future__ import annotations

import bz2
import gzip
import json
import zlib
from decimal import Decimal
from pathlib import Path

import pytest

from troth.client.sql.undo import BranchUndoLog, Field, Row, SqlUndoLog, TableRecords
from troth.client.sql.undo_codec import UndoCodecError, context_text, decode, decode_text, encode, parse_context, unpack
from troth.client.sql.undo_json import from_plain, to_plain
from troth.client.sql.values import Typed

LINES = [json.loads(line) for line in (Path(__file__).parent / "data/undo_log.jsonl").read_text().splitlines()]
ROWS = [pytest.param(line, id=f"{line['driver']}-{line['name']}") for line in LINES if "rollback_info_hex" in line]


@pytest.mark.parametrize("row", ROWS)
def test_vector(row):
    stored = bytes.fromhex(row["rollback_info_hex"])
    log = decode(row["context"], stored)
    assert (log.xid, log.branch_id) == (row["xid"], row["branch_id"])
    if "compressorType=ZIP" not in row["context"]:  # a zip entry has a date, which we do not have
        assert encode(row["context"], log) == stored
    assert unpack(row["context"], encode(row["context"], log)) == unpack(row["context"], stored)
    assert from_plain(json.loads(to_plain(log), parse_float=Decimal)) == log


def test_every_row_of_the_file_is_tested():
    assert len(ROWS) == 28


def test_numbers_keep_their_digits():
    value = Typed("java.math.BigDecimal", Decimal("12345.6789000"))
    log = BranchUndoLog("x", 1, (SqlUndoLog("DELETE", "t", _one(value), TableRecords("t", (), empty=True)),))
    stored = encode("serializer=jackson&compressorType=NONE", log)
    assert b'["java.math.BigDecimal",12345.6789000]' in stored
    assert decode("serializer=jackson", stored) == log
    assert '["java.math.BigDecimal",12345.6789000]' in to_plain(log)


def _one(value):
    return TableRecords("t", (Row((Field("v", "NULL", 3, value),)),))


@pytest.mark.parametrize(
    ("compressor", "pack"),
    [("GZIP", gzip.compress), ("DEFLATER", zlib.compress), ("BZIP2", lambda b: bz2.compress(b)[2:])],
)
def test_compressors_of_java(compressor, pack):
    log = BranchUndoLog("x", 1, ())
    plain = encode("serializer=jackson&compressorType=NONE", log)
    assert decode(f"serializer=jackson&compressorType={compressor}", pack(plain)) == log


def test_classes_of_the_time_before_apache():
    log = BranchUndoLog("x", 1, (SqlUndoLog("INSERT", "t", _one(None), _one(True)),), package="io.seata")
    stored = encode("serializer=jackson", log)
    assert b'"io.seata.rm.datasource.undo.BranchUndoLog"' in stored
    assert decode("serializer=jackson", stored) == log
    assert from_plain(json.loads(to_plain(log))) == log


def test_context():
    text = "serializer=jackson&compressorType=NONE&map=&x=a=b"
    assert parse_context(text) == {"serializer": "jackson", "compressorType": "NONE", "map": "", "x": "a=b"}
    assert context_text(parse_context(text)) == text


HEAD = b'{"@class":"org.apache.seata.rm.datasource.undo.BranchUndoLog",'


@pytest.mark.parametrize(
    ("context", "info", "said"),
    [
        ("serializer=kryo&compressorType=NONE", b"{}", "kryo"),
        ("serializerKey=jackson&compressorTypeKey=CompressorNone", b"{}", "without `serializer`"),
        ("serializer=jackson&compressorType=RAR", b"{}", "RAR"),
        ("serializer=jackson&subId=1,2", b"{}", "subId"),
        ("serializer=jackson", b"\xff", "UTF-8"),
        ("serializer=jackson", b"{", "JSON"),
        ("serializer=jackson", b"{}", "BranchUndoLog"),
        ("serializer=jackson", b"[" * 100_000, "nested"),
        ("serializer=jackson", b"NaN", "NaN"),
        (
            "serializer=jackson",
            HEAD + b'"xid":1,"branchId":1,"sqlUndoLogs":["java.util.ArrayList",[]]}',
            "xid",
        ),
        ("serializer=jackson", HEAD + b'"xid":"x","sqlUndoLogs":["java.util.ArrayList",[]]}', "branchId"),
        ("serializer=jackson", HEAD + b'"xid":"x","branchId":1,"sqlUndoLogs":["java.util.Set",[]]}', "List"),
        ("serializer=jackson", HEAD + b'"xid":"x","branchId":1,"sqlUndoLogs":[],"more":1}', "more"),
        ("serializer=jackson&compressorType=GZIP", b"no gzip", "GZIP"),
        ("serializer=jackson&compressorType=ZIP", b"PK", "ZIP"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(context, info, said):
    with pytest.raises(UndoCodecError, match=said):
        decode(context, info)


def test_offset_of_a_json_error():
    with pytest.raises(UndoCodecError) as caught:
        decode_text('{"a": ?}')
    assert caught.value.offset == 6


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(UndoCodecError, match="UTF-8"):
        encode("serializer=jackson", BranchUndoLog("\ud800", 1, ()))
