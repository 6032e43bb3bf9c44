"""`troth ls`, `troth inspect`, `troth retry`: what a running coordinator is doing, over its admin door."""

from __future__ import annotations

import json
import time
import urllib.parse
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from troth.cli.admin_door import DEFAULT_ADMIN, LONG_PATIENCE_S, Admin, AsJson, Xid, ask, of_transaction
from troth.cli.images import images_text
from troth.cli.looking import look_directly
from troth.cli.tables import table

_PAGE = 100


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


def inspect(
    xid: Xid,
    images: Annotated[
        bool, typer.Option("--images", help="Show before / after / now also where no branch is in trouble.")
    ] = False,
    db: Annotated[
        str | None,
        typer.Option("--db", metavar="URL", help="Read undo rows and rows there, over a connection of our own."),
    ] = None,
    admin: Admin = DEFAULT_ADMIN,
    as_json: AsJson = False,
) -> None:
    """Show one transaction: how it stands and why, each branch with its rows, attempts and last error.

    Of AT branches in trouble also every row before, after and now, column by column, the SQL that a rollback would run
    (nothing of it is run), who waits for the rows, and the next step. The coordinator has no images: it asks a client
    that serves the database. Where that is a Java client, name the database by --db, which locks each row for a moment.
    """
    tx = ask(admin, of_transaction(xid))
    shown = _images(admin, tx, db, wanted=images)
    if as_json:
        typer.echo(json.dumps(tx if shown is None else {**tx, "images": shown}, indent=2, ensure_ascii=False))
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
    for branch in shown or ():
        typer.echo(images_text(branch))
    for waiting in tx["waiting"]:
        typer.echo(f"\nwaits for rows of {waiting['resource_id']}: {waiting['lock_keys']}")


def _images(admin: str, tx: dict[str, Any], db: str | None, *, wanted: bool) -> list[dict[str, Any]] | None:
    """What the AT branches look like; None where nobody wants to know."""
    at_branches = [branch for branch in tx["branches"] if branch["branch_type"] == "AT"]
    in_trouble = any(branch["last_error"] for branch in at_branches)
    if not at_branches or not (wanted or in_trouble or db):
        return None
    found = ask(admin, of_transaction(tx["xid"], "/images"), patience_s=LONG_PATIENCE_S)
    branches: list[dict[str, Any]] = found["branches"]
    return branches if db is None else [look_directly(db, tx["xid"], branch) for branch in branches]


def retry(xid: Xid, admin: Admin = DEFAULT_ADMIN, as_json: AsJson = False) -> None:
    """Ask the branches of a decided transaction again now, also those that have refused for good."""
    answer = ask(admin, of_transaction(xid, "/retry"), method="POST")
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
        page = ask(admin, f"/api/transactions?{parameters}")
        yield from page["transactions"]
        left -= len(page["transactions"])
        cursor = page["cursor"]
        if cursor is None:
            return


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
