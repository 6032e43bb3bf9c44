"""`troth wire`: look at Seata's bytes, and make them."""

import json
import sys
from collections.abc import Callable
from typing import BinaryIO

import typer

from troth.wire.seata.errors import WireError
from troth.wire.seata.json import frame_to_object, object_to_frame

app = typer.Typer(
    no_args_is_help=True,
    help="Translate Seata protocol frames between hex and JSON, one a line, from standard input to standard output.",
)


@app.command()
def decode() -> None:
    """Read frames in hex, one a line; print each as a JSON object.

    The object has type, type_code, protocol_version (0 or 1), codec, compressor, message_type (0 request, 1 response,
    2 one-way, 3 ping, 4 pong), request_id, head_map (if there is one), fields and body_hex (the uncompressed body).
    Blank lines are skipped.

    A line that is no frame gives {"error": {"reason": …, "offset": …}}, offset counting bytes of the frame; the lines
    after it are still read, and the exit status is 1 at the end.

    Example: echo dada01000000100010030100000003e9 | troth wire decode
    """
    _translate(sys.stdin.buffer, _decoded)


@app.command()
def encode() -> None:
    """Read JSON objects as `troth wire decode` prints them, one a line; print each as a frame in hex.

    The body is written from fields; body_hex is ignored, as are keys that decode does not print. protocol_version (1),
    codec ("SEATA"), compressor ("NONE") and head_map ({}) may be left out. Blank lines are skipped.

    A line that is no such object gives {"error": {"reason": …, "offset": …}}, offset counting characters of the line
    where it is not even JSON; the lines after it are still read, and the exit status is 1 at the end.

    Example: echo '{"type": "GlobalBeginRequest", "message_type": 0, "request_id": 1,
    "fields": {"timeout": 60000, "transactionName": "purchase"}}' | troth wire encode
    """
    _translate(sys.stdin.buffer, _encoded)


def _translate(lines: BinaryIO, translate: Callable[[bytes], str]) -> None:
    failed = False
    for line in lines:
        text = line.strip()
        if not text:
            continue
        try:
            shown = translate(text)
        except WireError as error:
            failed = True
            shown = json.dumps({"error": {"reason": error.reason, "offset": error.offset}}, ensure_ascii=False)
        # As bytes, so that a terminal's encoding has no say in what is UTF-8; what it lacks is half a surrogate pair.
        typer.echo(shown.encode(errors="backslashreplace"))
    if failed:
        raise typer.Exit(1)


def _decoded(line: bytes) -> str:
    try:
        data = bytes.fromhex(line.decode("ascii"))
    except ValueError as error:
        raise WireError(f"not hex: {error}", 0) from None
    return json.dumps(frame_to_object(data), ensure_ascii=False)


def _encoded(line: bytes) -> str:
    try:
        shown = json.loads(line)
        return object_to_frame(shown).hex()
    except json.JSONDecodeError as error:
        raise WireError(f"not JSON: {error.msg}", error.pos) from None
    except UnicodeDecodeError as error:
        raise WireError(f"not UTF-8: {error.reason}", error.start) from None
    except RecursionError:
        raise WireError("JSON nested too deeply", 0) from None
