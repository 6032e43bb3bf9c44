"""`troth demo`."""

from __future__ import annotations

import importlib.util
import sys
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Final

import msgspec
import typer

from troth.demo.dtm import run as run_dtm
from troth.demo.dtm_faults import Fault as DtmFault
from troth.demo.processes import ChildFailed
from troth.demo.run import run
from troth.demo.scenario import FailAt
from troth.demo.servers.install import command, missing
from troth.demo.servers.plan import Kind, ServersMissing
from troth.demo.tcc import run as run_transfers
from troth.demo.tcc_faults import Fault

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Db(StrEnum):
    """The databases that the demo can use."""

    SQLITE = "sqlite"
    POSTGRES = "postgres"
    MYSQL = "mysql"


_SERVERS: Final = MappingProxyType({Db.POSTGRES: Kind.POSTGRES, Db.MYSQL: Kind.MARIADB})
_DRIVERS: Final = MappingProxyType({Db.POSTGRES: "psycopg", Db.MYSQL: "pymysql"})


@app.callback(invoke_without_command=True)
def demo(
    context: typer.Context,
    db: Annotated[
        Db, typer.Option(help="The database of each service: files, or those of a private server.")
    ] = Db.SQLITE,
    fail_at: Annotated[
        FailAt | None,
        typer.Option(
            help="Where the purchase fails. Without it both ends are shown: a purchase that works, then one that fails "
            "after all three services have committed locally. With --json it is `none`."
        ),
    ] = None,
    json: Annotated[
        bool,
        typer.Option("--json", help="Standard output is one JSON object; the story goes to standard error."),
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running for exploring, until Ctrl-C.")] = False,
) -> None:
    """Buy something over three services and three databases: all of it happens, or nothing.

    Starts a coordinator, three services over HTTP (account, stock, order), each with its own database, and a business
    process that calls them. Exit status 0 only if the rows in the databases are right at the end.
    """
    if context.invoked_subcommand is not None:
        return
    _check_installed(db)
    both_ends = (FailAt.NONE, FailAt.AFTER_ALL)
    fail_ats = (fail_at,) if fail_at is not None else both_ends[: 1 if json else 2]
    try:
        results = run(fail_ats, keep=keep, out=sys.stderr if json else sys.stdout, server=_SERVERS.get(db))
    except ServersMissing as error:
        typer.echo(f"the demo could not start its database server: {error}", err=True)
        raise typer.Exit(1) from error
    except ChildFailed as error:
        typer.echo(f"the demo failed: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        typer.echo("interrupted; everything is stopped and removed", err=True)
        raise typer.Exit(130) from None
    if json:
        typer.echo(msgspec.json.encode(results[-1]).decode("utf-8"))
    raise typer.Exit(0 if all(result.ok for result in results) else 1)


@app.command()
def tcc(
    fault: Annotated[
        Fault | None, typer.Option(help="What goes wrong, once. Without it everything is shown, one after the other.")
    ] = None,
    json: Annotated[
        bool,
        typer.Option("--json", help="Standard output is one JSON object; the story goes to standard error."),
    ] = False,
) -> None:
    """Transfer money from one bank to another by try, confirm and cancel, while something goes wrong.

    Starts a coordinator and two banks over HTTP, each with its own database. Exit status 0 only if no money is lost,
    none is frozen, and each step has been done as often as it must. With --json and no --fault it is `none`.
    """
    _check_installed(Db.SQLITE)
    faults = (fault,) if fault is not None else (Fault.NONE,) if json else tuple(Fault)
    try:
        results = run_transfers(faults, out=sys.stderr if json else sys.stdout)
    except ChildFailed as error:
        typer.echo(f"the demo failed: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        typer.echo("interrupted; everything is stopped and removed", err=True)
        raise typer.Exit(130) from None
    if json:
        typer.echo(msgspec.json.encode(results[-1]).decode("utf-8"))
    raise typer.Exit(0 if all(result.ok for result in results) else 1)


@app.command()
def dtm(
    fault: Annotated[
        DtmFault | None,
        typer.Option(help="What goes wrong, once. Without it everything is shown, one after the other."),
    ] = None,
    json: Annotated[
        bool,
        typer.Option("--json", help="Standard output is one JSON object; the story goes to standard error."),
    ] = False,
) -> None:
    """Transfer money from one bank to another in DTM's styles: saga, TCC, message, workflow; something goes wrong.

    Starts a coordinator and two banks over HTTP whose doors stand behind DTM's barrier. Exit status 0 only if no money
    is lost, none is frozen, and each step has been done as often as it must. With --json and no --fault it is `none`.
    """
    _check_installed(Db.SQLITE)
    faults = (fault,) if fault is not None else (DtmFault.NONE,) if json else tuple(DtmFault)
    try:
        results = run_dtm(faults, out=sys.stderr if json else sys.stdout)
    except ChildFailed as error:
        typer.echo(f"the demo failed: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        typer.echo("interrupted; everything is stopped and removed", err=True)
        raise typer.Exit(130) from None
    if json:
        typer.echo(msgspec.json.encode(results[-1]).decode("utf-8"))
    raise typer.Exit(0 if all(result.ok for result in results) else 1)


def _check_installed(db: Db) -> None:
    needed = ["fastapi", "uvicorn", "starlette", "httpx"]
    absent = [name for name in needed if importlib.util.find_spec(name) is None]
    if absent:
        typer.echo(f"the demo needs {', '.join(absent)}: pip install 'troth[demo]'", err=True)
        raise typer.Exit(2)
    if db in _DRIVERS and importlib.util.find_spec(_DRIVERS[db]) is None:
        extra = "postgresql" if db is Db.POSTGRES else "mysql"
        typer.echo(f"the demo on {db} needs {_DRIVERS[db]}: pip install 'troth[{extra}]'", err=True)
        raise typer.Exit(2)
    products = missing([_SERVERS[db]]) if db in _SERVERS else []
    if products:
        typer.echo(f"{products[0].kind} is not installed. As root: {command(products)}", err=True)
        raise typer.Exit(2)
