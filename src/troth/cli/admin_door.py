"""Requests to a coordinator's admin door. A refusal or no answer becomes one sentence and exit status 1."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Annotated, Any, NoReturn

import typer

PATIENCE_S = 10.0
"""For what the coordinator knows by itself; what it has to ask a resource manager takes longer."""
LONG_PATIENCE_S = 60.0
DEFAULT_ADMIN = "http://127.0.0.1:7091"

Admin = Annotated[
    str,
    typer.Option("--admin", envvar="TROTH_ADMIN", metavar="URL", help="The coordinator's admin door."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON as the admin door gives it.")]
Xid = Annotated[str, typer.Argument(metavar="XID", help="The transaction's id, as `troth ls` shows it.")]


def ask(
    admin: str, path: str, method: str = "GET", body: object = None, patience_s: float = PATIENCE_S
) -> dict[str, Any]:
    """The JSON answer to a request, with `body` as JSON."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # an HTTP proxy does not know this door
    content = None if body is None else json.dumps(body).encode()
    headers = {} if body is None else {"content-type": "application/json"}
    try:
        request = urllib.request.Request(admin.rstrip("/") + path, content, headers, method=method)
        with opener.open(request, timeout=patience_s) as answer:
            decoded: dict[str, Any] = json.load(answer)
            return decoded
    except urllib.error.HTTPError as error:
        give_up(_reason(error))
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        give_up(f"no coordinator answers at {admin} ({reason}); is `troth serve` running? Its admin door is --admin")


def of_transaction(xid: str, rest: str = "") -> str:
    """The path of a transaction."""
    return f"/api/transactions/{urllib.parse.quote(xid)}{rest}"


def give_up(sentence: str) -> NoReturn:
    """Say it on standard error; exit status 1."""
    typer.echo(f"troth: {sentence}", err=True)
    raise typer.Exit(1)


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):
        return f"the admin door answered {error.code} {error.reason}"
