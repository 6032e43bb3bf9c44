"""`troth ls`, `troth inspect`, `troth retry`: what a running coordinator is doing, over its admin door."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from troth.cli.tables import table

_PAGE = 100
_PATIENCE_S = 10.0

Admin = Annotated[
    str,
    typer.Option("--admin", envvar="TROTH_ADMIN", metavar="URL", help="The coordinator's admin door."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON as the admin door gives it.")]
Xid = Annotated[str, typer.Argument(metavar="XID", help="The transaction's id, as `troth ls` shows it.")]
DEFAULT_ADMIN = "http://127.0.0.1:7091"


def ls(
    status: Annotated[
        str | None,
        typer.Option("--status", metavar="NAME", help="open, ended, or one of Seata's names such as Begin, Committed."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="Show at most so many.")] = _PAGE,
    admin: Admin = DEFAULT_ADMIN,
    as_json: AsJson = False,
) -> None:
    """List transactions, newest first, those that have not ended before those that have."""
    found = list(_pages(admin, status, limit))
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    if not found:
        typer.echo("no transactions")
        return
    head = ("XID", "STATUS", "AGE", "BRANCHES", "NAME", "APPLICATION")
    typer.echo(
        table(
            head,
            [
                (tx["xid"], tx["status"], _age(tx["begin_time"]), _branches(tx), tx["name"], tx["application"])
                for tx in found
            ],
        )
    )


def inspect(xid: Xid, admin: Admin = DEFAULT_ADMIN, as_json: AsJson = False) -> None:
    """Show one transaction: how it stands and why, each branch with its rows, attempts and last error."""
    tx = _ask(admin, f"/api/transactions/{urllib.parse.quote(xid)}")
    if as_json:
        typer.echo(json.dumps(tx, indent=2, ensure_ascii=False))
        return
    facts = [
        ("xid", tx["xid"]),
        ("status", tx["status"] + (f" ({tx['cause']})" if tx["cause"] else "")),
        ("name", tx["name"]),
        ("application", f"{tx['application']} (group {tx['group']})"),
        ("begun", f"{_age(tx['begin_time'])} ago, timeout {tx['timeout_ms']} ms"),
    ]
    if tx["end_time"] is not None:
        facts.append(("ended", f"{_age(tx['end_time'])} ago"))
    if tx["rollback_only"]:
        facts.append(("vote", "a participant has made it rollback-only"))
    typer.echo("\n".join(f"{name:<12} {value}" for name, value in facts))
    for branch in tx["branches"]:
        typer.echo(_branch_text(branch))
    for waiting in tx["waiting"]:
        typer.echo(f"\nwaits for rows of {waiting['resource_id']}: {waiting['lock_keys']}")


def retry(xid: Xid, admin: Admin = DEFAULT_ADMIN, as_json: AsJson = False) -> None:
    """Ask the branches of a decided transaction again now, also those that have refused for good."""
    answer = _ask(admin, f"/api/transactions/{urllib.parse.quote(xid)}/retry", method="POST")
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        count = answer["branches"]
        typer.echo(f"{count} branch{' is' if count == 1 else 'es are'} asked again now")


def _pages(admin: str, status: str | None, limit: int) -> Iterator[dict[str, Any]]:
    cursor: str | None = None
    left = limit
    while left > 0:
        query = {"limit": str(min(left, _PAGE)), "status": status, "cursor": cursor}
        parameters = urllib.parse.urlencode({key: value for key, value in query.items() if value is not None})
        page = _ask(admin, f"/api/transactions?{parameters}")
        yield from page["transactions"]
        left -= len(page["transactions"])
        cursor = page["cursor"]
        if cursor is None:
            return


def _ask(admin: str, path: str, method: str = "GET") -> dict[str, Any]:
    """The JSON answer; a refusal or no answer becomes one sentence and exit status 1."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # an HTTP proxy does not know this door
    try:
        request = urllib.request.Request(admin.rstrip("/") + path, method=method)
        with opener.open(request, timeout=_PATIENCE_S) as answer:
            decoded: dict[str, Any] = json.load(answer)
            return decoded
    except urllib.error.HTTPError as error:
        _give_up(_reason(error))
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        _give_up(f"no coordinator answers at {admin} ({reason}); is `troth serve` running? Its admin door is --admin")
    raise AssertionError("unreachable")


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):
        return f"the admin door answered {error.code} {error.reason}"


def _give_up(sentence: str) -> None:
    typer.echo(f"troth: {sentence}", err=True)
    raise typer.Exit(1)


def _age(since_ms: int) -> str:
    seconds = max(time.time() - since_ms / 1000, 0)
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.1f}s"


def _branches(tx: dict[str, Any]) -> str:
    failing = sum(1 for branch in tx["branches"] if branch["last_error"])
    return f"{len(tx['branches'])}" + (f" ({failing} failing)" if failing else "")


def _branch_text(branch: dict[str, Any]) -> str:
    lines = [
        f"\nbranch {branch['branch_id']}  {branch['branch_type']}  {branch['status']}",
        f"  resource   {branch['resource_id']}",
        f"  client     {branch['client_id']}",
    ]
    if branch["lock_keys"]:
        lines.append(f"  rows       {branch['lock_keys']}")
    if branch["attempts"] or branch["last_error"]:
        lines.append(f"  attempts   {branch['attempts']}" + _when_next(branch))
    if branch["last_error"]:
        lines.append(f"  last error {branch['last_error']}")
    return "\n".join(lines)


def _when_next(branch: dict[str, Any]) -> str:
    if branch["next_due"] is None:
        return ", none is planned: `troth retry` asks again"
    return f", the next in {max(branch['next_due'] / 1000 - time.time(), 0):.1f}s"
