"""`troth resolve`, `troth audit`: decide about a branch that can not be undone by itself, and see who decided what."""

from __future__ import annotations

import getpass
import json
import socket
import sys
import time
import urllib.parse
from typing import Annotated, Any

import msgspec
import typer

from troth.cli.admin_door import DEFAULT_ADMIN, LONG_PATIENCE_S, Admin, AsJson, Xid, ask, give_up, of_transaction
from troth.cli.images import images_text, report_lines
from troth.cli.looking import ask_database, look_directly
from troth.cli.tables import table
from troth.wire.seata.private import BranchReport, Inquiry

_DECISIONS = ("force-before", "keep")

_Database = Annotated[
    str | None,
    typer.Option("--db", metavar="URL", help="Do it over a connection of our own: for a Java client's database."),
]
_Reason = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why; kept in the audit.")]
_Operator = Annotated[str | None, typer.Option("--operator", metavar="NAME", help="Who. [user@host]")]


def resolve(
    xid: Xid,
    branch: Annotated[
        str | None, typer.Option("--branch", metavar="ID", help="Which branch; needed if several are frozen.")
    ] = None,
    row: Annotated[
        list[str] | None,
        typer.Option(
            "--row",
            metavar="ROW[=DECISION]",
            help="Only this row, as `troth inspect` names it (stock:1), or with a decision of its own "
            "(stock:1=keep). May be repeated.",
        ),
    ] = None,
    force_before: Annotated[
        bool, typer.Option("--force-before", help="Put dirty rows back as they were before the branch.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave dirty rows as they are now.")] = False,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="Undo nothing of this branch: all its changes stay.")
    ] = False,
    db: _Database = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    reason: _Reason = None,
    operator: _Operator = None,
    admin: Admin = DEFAULT_ADMIN,
    as_json: AsJson = False,
) -> None:
    """End a frozen AT branch as you decide. Its rows are shown first, and are refused if they change meanwhile.

    Rows that are as the branch left them are undone; every dirty row needs a decision, all in one command. The branch
    ends in one local transaction of its database, its rows become free, and the decision stays in `troth audit`.

    --force-before overwrites what somebody else wrote. --keep leaves a row that may hold both changes. --abandon
    leaves every row of the branch: the transaction ends as rolled back, although this branch was not.
    """
    order = _order(xid, row or [], force_before=force_before, keep=keep, abandon=abandon)
    shown = _frozen(admin, xid, branch)
    if db is not None:
        shown = look_directly(db, xid, shown)
    if shown["report"] is None:
        give_up(f"{shown['next_step']}")
    seen = msgspec.convert(shown["report"], BranchReport)
    if not as_json:
        typer.echo(images_text(shown))
    _confirm(order, shown, yes=yes)
    order["seen"] = {one.row: one.now_digest for one in seen.rows}
    order["operator"] = operator or f"{getpass.getuser()}@{socket.gethostname()}"
    order["reason"] = reason
    if db is None:
        path = of_transaction(xid, f"/branches/{shown['branch_id']}/resolve")
        done = ask(admin, path, "POST", order, LONG_PATIENCE_S)
    else:
        done = _directly(admin, xid, shown["branch_id"], order, db, seen)
    if as_json:
        typer.echo(json.dumps(done, indent=2, ensure_ascii=False))
        return
    typer.echo("\n".join(report_lines(done["report"])))
    typer.echo(f"branch {shown['branch_id']} of {xid} has ended, its rows are free; `troth audit {xid}` keeps it")


def _order(xid: str, rows: list[str], *, force_before: bool, keep: bool, abandon: bool) -> dict[str, Any]:
    """The body of the request, without who and why."""
    chosen = [word for word, given in (("force-before", force_before), ("keep", keep), ("abandon", abandon)) if given]
    if len(chosen) > 1:
        raise typer.BadParameter(f"--{chosen[0]} and --{chosen[1]} exclude each other")
    if abandon:
        if rows:
            raise typer.BadParameter("--abandon ends the whole branch; of single rows say --row ROW=keep")
        return {"action": "abandon"}
    default = chosen[0] if chosen else None
    decided: dict[str, str] = {}
    for text in rows:
        name, separator, word = text.rpartition("=")
        if separator and word in _DECISIONS:
            decided[name] = word
        elif default is None:
            raise typer.BadParameter(f"what about {text}? --row {text}=keep or {text}=force-before")
        else:
            decided[text] = default
    if default is None and not decided:
        raise typer.BadParameter(f"decide: --force-before, --keep or --abandon (`troth inspect {xid}` shows the rows)")
    return {"action": "resolve", "rows": decided, "others": None if rows else default}


def _frozen(admin: str, xid: str, branch_id: str | None) -> dict[str, Any]:
    """The branch that is meant, as GET …/images shows it."""
    found = ask(admin, of_transaction(xid, "/images"), patience_s=LONG_PATIENCE_S)
    frozen = [one for one in found["branches"] if one["frozen"] and branch_id in (None, one["branch_id"])]
    if len(frozen) > 1:
        ids = " | ".join(one["branch_id"] for one in frozen)
        give_up(f"{len(frozen)} branches are frozen, say which: --branch {ids}")
    if not frozen:
        which = f"branch {branch_id}" if branch_id else "no AT branch"
        give_up(f"{which} of {xid} is {'not ' if branch_id else ''}frozen: there is nothing to decide")
    chosen: dict[str, Any] = frozen[0]
    return chosen


def _confirm(order: dict[str, Any], shown: dict[str, Any], *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        give_up("nobody is there to ask: add --yes")
    if order["action"] == "abandon":
        meaning = "ABANDON it: every change of this branch stays, in the dirty rows and in all others"
    else:
        words = [f"{row} {word}" for row, word in order["rows"].items()]
        words += [f"all dirty rows {order['others']}"] if order["others"] else []
        meaning = f"end it: {', '.join(words)}, the other rows are undone"
    if not typer.confirm(f"branch {shown['branch_id']}: {meaning}?"):
        raise typer.Exit(1)


def _directly(
    admin: str, xid: str, branch_id: str, order: dict[str, Any], url: str, seen: BranchReport
) -> dict[str, Any]:
    """Decided at the coordinator first, done here, then told there; again after an interruption, each is done once."""
    if seen.state == "unknown":
        give_up(f"the branch cannot be looked at: {seen.problem}")
    if seen.state == "gone" and order["action"] != "abandon" and not _was_decided(admin, xid, branch_id):
        give_up(
            f"this database has no undo row of branch {branch_id}: is it the right one? If nothing is left to undo, "
            f"`troth retry {xid}` ends the branch"
        )
    path = of_transaction(xid, f"/branches/{branch_id}/resolve")
    decided = ask(admin, path, "POST", {**order, "direct": "decided", "report": msgspec.to_builtins(seen)})
    inquiry = Inquiry(order["action"], order.get("rows") or {}, order.get("others"), order["seen"])
    report = ask_database(url, xid, branch_id, inquiry)
    if not report.ended:
        give_up(f"not done: {report.refused or report.problem}")
    told = {**order, "direct": "done", "resolution": decided["resolution"], "report": msgspec.to_builtins(report)}
    return ask(admin, path, "POST", told, LONG_PATIENCE_S)


def _was_decided(admin: str, xid: str, branch_id: str) -> bool:
    """Whether a decision that was to be carried out directly has been interrupted."""
    entries = ask(admin, f"/api/audit?xid={urllib.parse.quote(xid)}")["entries"]
    return any(
        entry["branch_id"] == branch_id and entry.get("via") == "direct" and entry.get("state") == "undo-log"
        for entry in entries
    )


def audit(
    xid: Annotated[str | None, typer.Argument(metavar="[XID]", help="Only this transaction, with every row.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, metavar="N", help="Show at most so many.")] = 100,
    admin: Admin = DEFAULT_ADMIN,
    as_json: AsJson = False,
) -> None:
    """List what operators have decided, newest first: who, when, what. With XID also the rows before, after and now."""
    query = {"limit": str(limit), **({} if xid is None else {"xid": xid})}
    entries = ask(admin, f"/api/audit?{urllib.parse.urlencode(query)}")["entries"]
    if as_json:
        typer.echo(json.dumps(entries, indent=2, ensure_ascii=False))
        return
    if not entries:
        typer.echo("no decisions")
        return
    head = ("WHEN", "STAGE", "OPERATOR", "FROM", "DECISION", "XID", "BRANCH", "REASON")
    typer.echo(table(head, [_entry_cells(entry) for entry in entries]))
    for entry in entries if xid is not None else ():
        typer.echo(f"\n{entry['stage']} {_when(entry)}, resolution {entry['resolution']}")
        typer.echo("\n".join(report_lines({"state": "", **entry})))


def _entry_cells(entry: dict[str, Any]) -> tuple[str, ...]:
    words = [f"{row} {word}" for row, word in entry.get("decisions", {}).items()]
    words += [f"dirty rows {entry['others']}"] if entry.get("others") else []
    decision = entry["action"] if entry["action"] == "abandon" else ", ".join(words)
    return (
        _when(entry),
        entry["stage"],
        entry["operator"],
        f"{entry['source']}{' (direct)' if entry.get('via') == 'direct' else ''}",
        decision,
        entry["xid"],
        entry["branch_id"],
        entry.get("reason") or entry.get("problem") or "",
    )


def _when(entry: dict[str, Any]) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry["at_ms"] / 1000))
