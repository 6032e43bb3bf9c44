"""`troth demo`."""

from __future__ import annotations

import importlib.util
import sys
from enum import StrEnum
from typing import Annotated

import msgspec
import typer

from troth.demo.processes import ChildFailed
from troth.demo.run import run
from troth.demo.scenario import FailAt


class Db(StrEnum):
    """The databases that the demo can use."""

    SQLITE = "sqlite"


def demo(
    db: Annotated[Db, typer.Option(help="The database of each service.")] = Db.SQLITE,
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
    missing = [name for name in ("fastapi", "uvicorn", "starlette", "httpx") if importlib.util.find_spec(name) is None]
    if missing:
        typer.echo(f"the demo needs {', '.join(missing)}: pip install 'troth[demo]'", err=True)
        raise typer.Exit(2)
    both_ends = (FailAt.NONE, FailAt.AFTER_ALL)
    fail_ats = (fail_at,) if fail_at is not None else both_ends[: 1 if json else 2]
    try:
        results = run(fail_ats, keep=keep, out=sys.stderr if json else sys.stdout)
    except ChildFailed as error:
        typer.echo(f"the demo failed: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        typer.echo("interrupted; everything is stopped and removed", err=True)
        raise typer.Exit(130) from None
    if json:
        typer.echo(msgspec.json.encode(results[-1]).decode("utf-8"))
    raise typer.Exit(0 if all(result.ok for result in results) else 1)
