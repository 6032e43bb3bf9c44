"""`troth wire decode|encode`: lines in, lines out, errors in their place."""

import json
import re

import pytest
from typer.testing import CliRunner

from troth.cli.wire import app

BEGIN = "dada01000000190010000100000003fe0001ffffffff000178"


def run(command: str, *lines: str | bytes) -> tuple[int, list[str]]:
    data = b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines)
    result = CliRunner().invoke(app, [command], input=data)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout_bytes.decode().splitlines()


def begin(**changes: object) -> str:
    shown = {
        "type": "GlobalBeginRequest",
        "message_type": 0,
        "request_id": 1022,
        "fields": {"timeout": -1, "transactionName": "x"},
    }
    shown.update(changes)
    return json.dumps({key: value for key, value in shown.items() if value is not ...})


def test_decode_gives_one_object_a_line() -> None:
    status, lines = run("decode", "", BEGIN.upper(), "   ", f"  {BEGIN}\r", "")
    assert status == 0
    assert [json.loads(line) for line in lines] == 2 * [
        {
            "type": "GlobalBeginRequest",
            "type_code": 1,
            "protocol_version": 1,
            "codec": "SEATA",
            "compressor": "NONE",
            "message_type": 0,
            "request_id": 1022,
            "fields": {"timeout": -1, "transactionName": "x"},
            "body_hex": "0001ffffffff000178",
        }
    ]


def test_decode_goes_on_after_errors_and_ends_with_1() -> None:
    status, lines = run("decode", "xyz", BEGIN[:-2], b"\xff\xfe", "4745", BEGIN)
    assert status == 1
    shown = [json.loads(line) for line in lines]
    assert [line["error"]["offset"] for line in shown[:-1]] == [0, 24, 0, 0]
    assert shown[1]["error"]["reason"] == "the frame ends after 24 bytes of at least 25"
    assert shown[-1]["request_id"] == 1022


def test_all_vectors_go_there_and_back(vectors: dict[str, dict]) -> None:
    readable = [v for name, v in vectors.items() if name != "branch_register.xid_over_32767"]
    status, lines = run("decode", *(vector["frame_hex"] for vector in readable))
    assert (status, len(lines)) == (0, len(readable))
    status, frames = run("encode", *lines)
    assert (status, len(frames)) == (0, len(readable))
    status, again = run("decode", *frames)
    for line, line_again in zip(lines, again, strict=True):
        shown, shown_again = json.loads(line), json.loads(line_again)
        # Three bodies say more than Seata reads; what it does read is the same.
        del shown["body_hex"], shown_again["body_hex"]
        assert shown_again == shown


def test_encode_takes_whole_vectors_and_needs_no_defaults(vectors: dict[str, dict]) -> None:
    vector = {**vectors["global_begin.negative_timeout"], "body_hex": "ignored"}
    assert run("encode", json.dumps(vector), "", begin()) == (0, [BEGIN, BEGIN])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        (b"\xff{}", "not UTF-8"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "not a JSON object"),
        ("{}", "type: None is no message"),
        (begin(type="Nonsense"), "'Nonsense' is no message"),
        (begin(type=["x"]), "is no message"),
        (begin(type_code=2), "GlobalBeginRequest has 1, not 2"),
        (begin(fields=...), "fields: not an object"),
        (begin(fields={}), "needs the field 'timeout'"),
        (begin(fields={"timeout": 1, "bogus": 2}), "no field 'bogus'"),
        (begin(fields={"timeout": "1"}), "fields.timeout: not an integer"),
        (begin(fields={"timeout": True}), "fields.timeout: not an integer"),
        (begin(fields={"timeout": 1.0}), "fields.timeout: not an integer"),
        (begin(fields={"timeout": 1 << 40}), "GlobalBeginRequest: "),
        (begin(fields={"timeout": 10**30}), "GlobalBeginRequest: "),
        (begin(fields={"timeout": 1, "transactionName": 5}), "neither text nor null"),
        (begin(fields={"timeout": 1, "transactionName": "\ud800"}), "not valid Unicode"),
        (begin(message_type=...), "message_type: not an integer"),
        (begin(message_type=5), "none of 0 to 4"),
        (begin(message_type=3), "has no body"),
        (begin(request_id=...), "request_id: not an integer"),
        (begin(request_id=1 << 31), "32 bits"),
        (begin(protocol_version=7), "unknown protocol version 7"),
        (begin(codec="SEATAN"), "is no SerializerType"),
        (begin(codec="KRYO"), "codec KRYO is not supported"),
        (begin(compressor=1), "is no CompressorType"),
        (begin(compressor="SEVENZ"), "SEVENZ is not supported"),
        (begin(head_map=[]), "head_map: not an object"),
        (begin(head_map={"k": 1}), "head_map.k: neither text"),
        (
            begin(type="BranchRegisterRequest", fields={"xid": "x", "branchType": "ATT", "resourceId": "r"}),
            "BranchType",
        ),
        (begin(type="GlobalLockQueryResponse", fields={"lockable": 1}), "neither true nor false"),
        (begin(type="GlobalCommitResponse", fields={"globalStatus": None}), "None is no GlobalStatus"),
        (begin(type="MergeResultMessage", fields={"msgs": {}}), "fields.msgs: not a list"),
        (begin(type="MergeResultMessage", fields={"msgs": [1]}), r"fields.msgs\[0\]: not an object"),
        (begin(type="MergeResultMessage", fields={"msgs": [{"type": "x"}]}), r"fields.msgs\[0\].type: 'x'"),
        (begin(type="MergedWarpMessage", fields={"msgs": [], "msgIds": ["1"]}), r"fields.msgIds\[0\]: not an integer"),
    ],
)
def test_encode_names_what_is_wrong(line: str | bytes, reason: str) -> None:
    status, lines = run("encode", line, begin())
    assert status == 1
    error = json.loads(lines[0])["error"]
    assert re.search(reason, error["reason"])
    assert error["offset"] >= 0
    assert lines[1] == BEGIN


def test_help_tells_the_keys() -> None:
    for command in ("decode", "encode"):
        text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
        for word in ("fields", "body_hex", "head_map", "exit status", "Example"):
            assert word in text
