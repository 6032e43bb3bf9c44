"""`troth undo`: look at the undo logs of AT branches, and make them."""

import json
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import BinaryIO

import typer

from troth.client.sql.undo_codec import UndoCodecError, decode_text, encode, json_text, unpack
from troth.client.sql.undo_json import from_plain, to_plain
from troth.client.sql.values import JsonValue

app = typer.Typer(
    no_args_is_help=True,
    help="Translate undo_log rows between their stored form and JSON, one a line, from standard input to output.",
)

_KEPT = ("name", "xid", "branch_id", "log_status")


@app.command("decode")
def decode_rows() -> None:
    """Read JSON objects with context and rollback_info_hex, one a line; print each with its undo log as plain JSON.

    The object has context, undo_log (xid, branchId, sqlUndoLogs …, with Seata's names; a value that Jackson types is
    [class, value]) and rollback_info_text, the uncompressed JSON as stored; name, xid, branch_id and log_status are
    kept where they were given. Blank lines are skipped.

    A line that is no undo row gives {"error": {"reason": …, "offset": …}}; the lines after it are still read, and the
    exit status is 1 at the end.
    """
    _translate(sys.stdin.buffer, _decoded)


@app.command("encode")
def encode_rows() -> None:
    """Read JSON objects as `troth undo decode` prints them, one a line; print each with context and rollback_info_hex.

    rollback_info is written from undo_log (without it, from rollback_info_text), compressed as context says. Blank
    lines are skipped.

    A line that is no such object gives {"error": {"reason": …, "offset": …}}; the lines after it are still read, and
    the exit status is 1 at the end.
    """
    _translate(sys.stdin.buffer, _encoded)


def _translate(lines: BinaryIO, translate: Callable[[dict[str, JsonValue]], str]) -> None:
    failed = False
    for line in lines:
        if not line.strip():
            continue
        try:
            shown = translate(_object(line))
        except UndoCodecError as error:
            failed = True
            shown = json.dumps({"error": {"reason": error.reason, "offset": error.offset}}, ensure_ascii=False)
        typer.echo(shown.encode(errors="backslashreplace"))
    if failed:
        raise typer.Exit(1)


def _object(line: bytes) -> dict[str, JsonValue]:
    try:
        found: JsonValue = json.loads(line, parse_float=Decimal)
    except json.JSONDecodeError as error:
        raise UndoCodecError(f"not JSON: {error.msg}", error.pos) from error
    except UnicodeDecodeError as error:
        raise UndoCodecError(f"not UTF-8: {error.reason}", error.start) from error
    except RecursionError as error:
        raise UndoCodecError("JSON nested too deeply") from error
    if not isinstance(found, dict):
        raise UndoCodecError("the line is not a JSON object")
    return found


def _text(row: dict[str, JsonValue], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise UndoCodecError(f"the line has no text {key!r}")
    return value


def _decoded(row: dict[str, JsonValue]) -> str:
    context = _text(row, "context")
    text = unpack(context, _bytes(row, "rollback_info_hex"))
    # The log's numbers keep their digits, so it is printed by its own writer.
    log = to_plain(decode_text(text))
    head = json_text({**_kept(row), "context": context})
    return f'{head[:-1]},"undo_log":{log},"rollback_info_text":{json_text(text)}}}'


def _bytes(row: dict[str, JsonValue], key: str) -> bytes:
    text = _text(row, key)
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise UndoCodecError(f"{key} is not hex: {error}") from error


def _encoded(row: dict[str, JsonValue]) -> str:
    context = _text(row, "context")
    log = from_plain(row["undo_log"]) if "undo_log" in row else decode_text(_text(row, "rollback_info_text"))
    info = encode(context, log)
    return json_text({**_kept(row), "context": context, "rollback_info_hex": info.hex()})


def _kept(row: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return {key: row[key] for key in _KEPT if key in row}
