"""`troth at`: make and check the undo table of a database that takes part in AT transactions."""

from urllib.parse import urlsplit

import typer

from troth import at

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
    except Exception as error:  # every driver has errors of its own; all are said in one line
        raise _failed(url, error) from error
    typer.echo(f"{_shown(url)}: undo_log is there")


@app.command()
def check(url: str = _URL) -> None:
    """Verify the table undo_log: its columns, and UNIQUE (xid, branch_id). Exit status 1 if something is wrong."""
    try:
        problems = at.check(url)
    except Exception as error:  # every driver has errors of its own; all are said in one line
        raise _failed(url, error) from error
    for problem in problems:
        typer.echo(f"{_shown(url)}: {problem}", err=True)
    if problems:
        typer.echo("`troth at init URL` makes the table where it is missing.", err=True)
        raise typer.Exit(1)
    typer.echo(f"{_shown(url)}: undo_log is as AT needs it")


def _failed(url: str, error: Exception) -> typer.Exit:
    typer.echo(f"{_shown(url)}: {error}", err=True)
    return typer.Exit(1)


def _shown(url: str) -> str:
    """The URL without its password."""
    password = urlsplit(url).password
    return url.replace(f":{password}@", ":***@", 1) if password else url
