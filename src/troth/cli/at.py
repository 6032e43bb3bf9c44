"""`troth at`: make and check the undo table of a database that takes part in AT transactions."""

import sqlite3

import typer

from troth import at
from troth.client.errors import TrothError

app = typer.Typer(no_args_is_help=True, help="Prepare a database for AT, and see whether it is prepared.")

_URL = typer.Argument(
    metavar="URL",
    help="The database, as SQLAlchemy spells it: sqlite:////var/lib/shop/stock.db, postgresql://user@host/shop …",
)


@app.command()
def init(url: str = _URL) -> None:
    """Make the table undo_log, if it is not there. Exit status 1 if that fails."""
    try:
        at.init(url)
    except (TrothError, ImportError, ValueError, sqlite3.Error) as error:
        raise _failed(url, error) from error
    typer.echo(f"{url}: undo_log is there")


@app.command()
def check(url: str = _URL) -> None:
    """Verify the table undo_log: its columns, and UNIQUE (xid, branch_id). Exit status 1 if something is wrong."""
    try:
        problems = at.check(url)
    except (TrothError, ImportError, ValueError, sqlite3.Error) as error:
        raise _failed(url, error) from error
    for problem in problems:
        typer.echo(f"{url}: {problem}", err=True)
    if problems:
        typer.echo("`troth at init URL` makes the table where it is missing.", err=True)
        raise typer.Exit(1)
    typer.echo(f"{url}: undo_log is as AT needs it")


def _failed(url: str, error: Exception) -> typer.Exit:
    typer.echo(f"{url}: {error}", err=True)
    return typer.Exit(1)
