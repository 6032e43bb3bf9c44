"""`troth tcc`: make, check and clean up the fence table of a database in which TCC actions work."""

from datetime import timedelta
from typing import Annotated
from urllib.parse import urlsplit

import typer

from troth.client.drivers import fence_table

app = typer.Typer(no_args_is_help=True, help="Prepare a database for the fence of TCC, and look after it.")

_HELP = "The database, as SQLAlchemy spells it: sqlite:////var/lib/shop/stock.db, postgresql://user@host/shop …"
_Url = Annotated[str, typer.Argument(metavar="URL", help=_HELP)]


@app.command()
def init(url: _Url) -> None:
    """Make the table tcc_fence_log, if it is not there. Exit status 1 if that fails."""
    try:
        fence_table.init(url)
    except Exception as error:  # every driver has errors of its own; all are said in one line
        raise _failed(url, error) from error
    typer.echo(f"{_shown(url)}: tcc_fence_log is there")


@app.command()
def check(url: _Url) -> None:
    """Verify the table tcc_fence_log: its columns, and its primary key. Exit status 1 if something is wrong."""
    try:
        problems = fence_table.check(url)
    except Exception as error:  # every driver has errors of its own; all are said in one line
        raise _failed(url, error) from error
    for problem in problems:
        typer.echo(f"{_shown(url)}: {problem}", err=True)
    if problems:
        typer.echo("`troth tcc init URL` makes the table where it is missing.", err=True)
        raise typer.Exit(1)
    typer.echo(f"{_shown(url)}: tcc_fence_log is as the fence needs it")


@app.command()
def clean(
    url: _Url,
    older_than_days: Annotated[
        int, typer.Option(min=0, help="Only rows of branches that ended longer ago than this.")
    ] = 7,
) -> None:
    """Delete the fence's rows of branches that have ended. Those of open ones stay, however old."""
    try:
        deleted = fence_table.clean_up(url, timedelta(days=older_than_days))
    except Exception as error:  # every driver has errors of its own; all are said in one line
        raise _failed(url, error) from error
    typer.echo(f"{_shown(url)}: {deleted} rows deleted")


def _failed(url: str, error: Exception) -> typer.Exit:
    typer.echo(f"{_shown(url)}: {error}", err=True)
    return typer.Exit(1)


def _shown(url: str) -> str:
    """The URL without its password."""
    password = urlsplit(url).password
    return url.replace(f":{password}@", ":***@", 1) if password else url
