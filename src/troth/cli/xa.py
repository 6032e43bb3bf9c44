"""`troth xa`: what is prepared in a database, and which of it nobody will end."""

import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import asdict, dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated
from urllib.parse import urlsplit

import typer

from troth.cli.admin_door import DEFAULT_ADMIN, Admin
from troth.cli.tables import table
from troth.client.drivers.xa_scan import Prepared, end, scan

app = typer.Typer(no_args_is_help=True, help="See what XA has prepared in a database.")

_PATIENCE_S = 10.0


class Fate(StrEnum):
    """What becomes of a prepared branch."""

    IN_HAND = "in hand"
    """Its transaction has not ended: the coordinator ends the branch by itself."""
    COMMIT = "orphan: to be committed"
    ROLL_BACK = "orphan: to be rolled back"
    UNKNOWN = "unknown to this coordinator"
    """Of another coordinator, or of a transaction that is forgotten: a person has to decide."""


_FATES = MappingProxyType({"Committed": Fate.COMMIT, "Rollbacked": Fate.ROLL_BACK, "TimeoutRollbacked": Fate.ROLL_BACK})


@dataclass(frozen=True)
class Found:
    """A prepared branch and its fate. done: it was ended now."""

    branch: Prepared
    fate: Fate
    done: bool = False


@app.callback()
def xa() -> None:
    """See what XA has prepared in a database."""


@app.command("scan")
def scan_database(
    url: Annotated[str, typer.Argument(metavar="URL", help="The database: postgresql://…, mysql://…, mariadb://…")],
    resolve: Annotated[
        bool, typer.Option("--resolve", help="End the orphans as their transactions ended; leave all others alone.")
    ] = False,
    admin: Admin = DEFAULT_ADMIN,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """List the prepared branches of a database, and ask the coordinator about each.

    A branch is an orphan if its transaction has ended: nobody will end it any more, and it keeps its rows locked.

    Exit status 1 if orphans or unknown branches are left, or something cannot be asked.
    """
    try:
        found = [Found(branch, _fate(admin, branch)) for branch in scan(url)]
        if resolve:
            found = [_resolved(url, one) for one in found]
    except Exception as error:  # every driver has errors of its own; all are said in one line
        typer.echo(f"{_shown(url)}: {error}", err=True)
        raise typer.Exit(1) from error
    _show(found, as_json=as_json)
    if any(one.fate is not Fate.IN_HAND and not one.done for one in found):
        raise typer.Exit(1)


def _fate(admin: str, branch: Prepared) -> Fate:
    request = f"{admin.rstrip('/')}/api/transactions/{urllib.parse.quote(branch.xid)}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # an HTTP proxy does not know this door
    try:
        with opener.open(request, timeout=_PATIENCE_S) as answer:
            outcome = json.load(answer)["outcome"]
    except urllib.error.HTTPError as error:
        with error:
            if error.code != 404:
                raise
        return Fate.UNKNOWN
    return Fate.IN_HAND if outcome is None else _FATES[outcome]


def _resolved(url: str, one: Found) -> Found:
    if one.fate not in (Fate.COMMIT, Fate.ROLL_BACK):
        return one
    end(url, one.branch, commit=one.fate is Fate.COMMIT)
    return Found(one.branch, one.fate, done=True)


def _show(found: list[Found], *, as_json: bool) -> None:
    if as_json:
        for one in found:
            branch = {**asdict(one.branch), "branch_id": str(one.branch.branch_id)}
            typer.echo(json.dumps({**branch, "fate": one.fate.name.lower(), "done": one.done}))
    elif not found:
        typer.echo("nothing is prepared")
    else:
        rows = [
            (
                one.branch.xid,
                str(one.branch.branch_id),
                "" if one.branch.age_s is None else f"{one.branch.age_s}s",
                f"{one.fate}{' - done' if one.done else ''}",
            )
            for one in found
        ]
        typer.echo(table(("XID", "BRANCH", "AGE", "FATE"), rows))


def _shown(url: str) -> str:
    """The URL without its password."""
    password = urlsplit(url).password
    return url.replace(f":{password}@", ":***@", 1) if password else url
