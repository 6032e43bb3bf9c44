"""`troth dtm`: make, check and clean up DTM's barrier table in a database."""

from datetime import timedelta
from typing import Annotated
from urllib.parse import urlsplit

import typer

from troth.client.drivers import barrier as barrier_table

app = typer.Typer(no_args_is_help=True, help="Prepare a database for DTM's barrier, and look after it.")

_HELP = "The database, as SQLAlchemy spells it: sqlite:////var/lib/shop/stock.db, postgresql://user@host/shop …"
_Url = Annotated[str, typer.Argument(metavar="URL", help=_HELP)]
_Table = Annotated[
    str | None, typer.Option(help="Another name than dtm_barrier.barrier (SQLite: barrier), with or without a schema.")
]


@app.command()
def init(url: _Url, table: _Table = None) -> None:
    """Make the barrier's table, if it is not there. Exit status 1 if that fails."""
    try:
        barrier_table.init(url, table)
    except Exception as error:  # every driver has errors of its own; all are said in one line
        raise _failed(url, error) from error
    typer.echo(f"{_shown(url)}: the barrier's table is there")


@app.command()
def check(url: _Url, table: _Table = None) -> None:
    """Verify the barrier's table: its columns, its unique key, its collation. Exit status 1 if something is wrong."""
    try:
        problems = barrier_table.check(url, table)
    except Exception as error:  # every driver has errors of its own; all are said in one line
        raise _failed(url, error) from error
    for problem in problems:
        typer.echo(f"{_shown(url)}: {problem}", err=True)
    if problems:
        typer.echo("`troth dtm init URL` makes the table where it is missing.", err=True)
        raise typer.Exit(1)
    typer.echo(f"{_shown(url)}: the table is as the barrier needs it")


@app.command()
def clean(
    url: _Url,
    older_than_days: Annotated[int, typer.Option(min=1, help="Only rows that were written longer ago than this.")] = 30,
    table: _Table = None,
) -> None:
    """Delete old rows. DTM marks no row as ended: choose a time in which every transaction has ended."""
    try:
        deleted = barrier_table.clean_up(url, timedelta(days=older_than_days), table)
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
