"""Branches seen over a connection of the operator's own, in place of what a client has reported."""

from __future__ import annotations

from typing import Any

import msgspec

from troth.cli.admin_door import give_up
from troth.client.drivers.inquiries import inquire
from troth.client.errors import NotSupported
from troth.wire.seata.private import BranchReport, Inquiry


def ask_database(url: str, xid: str, branch_id: str, inquiry: Inquiry) -> BranchReport:
    """What the database at `url` says; what is wrong with the URL becomes one sentence and exit status 1."""
    try:
        return inquire(url, xid, int(branch_id), inquiry)
    except (NotSupported, ValueError, ImportError) as error:
        give_up(f"--db: {error}")


def look_directly(url: str, xid: str, branch: dict[str, Any]) -> dict[str, Any]:
    """`branch` of GET …/images with the report and next step of our own."""
    report = ask_database(url, xid, branch["branch_id"], Inquiry())
    return {
        **branch,
        "report": msgspec.to_builtins(report),
        "next_step": _next_step(xid, branch, report),
    }


def _next_step(xid: str, branch: dict[str, Any], report: BranchReport) -> str:
    if not branch["frozen"]:
        return str(branch["next_step"])
    resolve = f"`troth resolve {xid} --branch {branch['branch_id']} --db URL"
    if report.state == "unreadable":
        return f"put the rows right by hand, then {resolve} --abandon`"
    if report.state != "undo-log":
        return "this database has no undo row of this branch: is it the right one?"
    if report.dirty_count:
        rows = "1 dirty row" if report.dirty_count == 1 else f"{report.dirty_count} dirty rows"
        return f"decide about {rows}: {resolve} --force-before`, --keep or --abandon"
    return f"the rows are as the branch left them: `troth retry {xid}` undoes it"
