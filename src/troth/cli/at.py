"""`troth at`: make and check the undo table of a database in AT transactions, and see what AT says to statements."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from troth import at
from troth.cli.tables import table
from troth.client.drivers.checking import DIALECTS, Verdict, check_on_database, check_rights, check_text

app = typer.Typer(no_args_is_help=True, help="Prepare a database for AT, and see whether it is prepared.")

_HELP = "The database, as SQLAlchemy spells it: sqlite:////var/lib/shop/stock.db, postgresql://user@host/shop …"
_URL = typer.Argument(metavar="URL", help=_HELP)
_SHOWN_SQL = 100


@app.command()
def init(
    url: str = _URL,
    hot_rows: Annotated[
        bool, typer.Option("--hot-rows", help="Make the table troth_hot_rows, too, which `additive` columns need.")
    ] = False,
) -> None:
    """Make the table undo_log, if it is not there. Exit status 1 if that fails."""
    try:
        at.init(url, hot_rows=hot_rows)
    except Exception as error:  # every driver has errors of its own; all are said in one line
        raise _failed(url, error) from error
    typer.echo(f"{_shown(url)}: undo_log is there{' and troth_hot_rows' if hot_rows else ''}")


@app.command()
def check(
    url: Annotated[str | None, typer.Argument(metavar="[URL]", help=_HELP)] = None,
    sql: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Judge the statements of this file instead; - is standard input. Nothing of it is run.",
        ),
    ] = None,
    db: Annotated[
        str | None,
        typer.Option(metavar="URL", help="With --sql: look at the tables of this database, too (keys, triggers …)."),
    ] = None,
    dialect: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"With --sql: judge by the text alone, as {', '.join(DIALECTS)}."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --sql: one object a line: line, sql, kind, accepted, reason, hint.")
    ] = False,
) -> None:
    """Verify the table undo_log of a database, or with --sql which statements AT can take.

    troth at check URL looks at undo_log: its columns, and UNIQUE (xid, branch_id). On MySQL and MariaDB it warns where
    the user's rights hide triggers from AT, which alone is no failure.

    troth at check --sql FILE --db URL tells for each statement of the file whether it could run inside a global
    transaction, and if not, why, and what to do instead. Placeholders may stand in it as the driver has them (%s, ?).
    With --dialect NAME in the place of --db no database is needed; what depends on a table (no primary key, a
    trigger, a cascading foreign key) is then not seen.

    Exit status 1 if something is wrong, or a statement is refused; 2 if the options do not fit.
    """
    if sql is not None:
        _check_sql(sql, db or url, dialect, as_json=as_json)
        return
    if url is None or db is not None or dialect is not None or as_json:
        raise typer.BadParameter("give the URL of a database, or --sql FILE with --db URL or --dialect NAME")
    _check_undo_table(url)


@app.command()
def guard(
    url: str = _URL,
    tables: Annotated[
        list[str] | None, typer.Argument(metavar="[TABLE]…", help="Which tables; none: show what is guarded.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="End the guard of the tables; records stay.")] = False,
    trust: Annotated[
        list[str] | None, typer.Option(metavar="USER", help="Do not record what this database user writes.")
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="Show the newest foreign writes, newest first.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="With --list: how many.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="With --list: one object a line.")] = False,
) -> None:
    """Have the database record at once what is written to tables past AT, by triggers; show it, or end it.

    Writes by AT and under global_lock() are not recorded, nor on PostgreSQL those of Seata's Java clients.
    """
    if (listing and (tables or remove)) or (remove and not tables) or (trust and (remove or not tables)):
        raise typer.BadParameter("give tables (with --remove or --trust), or --list, or neither")
    try:
        if listing:
            _show_writes(at.foreign_writes(url, limit=limit), as_json=as_json)
            return
        for name in tables or ():
            if remove:
                at.unguard(url, name)
            else:
                at.guard(url, name, trust=trust or ())
        typer.echo(f"{_shown(url)}: guarded: {', '.join(at.guarded(url)) or 'no table'}")
    except Exception as error:  # every driver has errors of its own; all are said in one line
        raise _failed(url, error) from error


def _show_writes(writes: Iterable[at.ForeignWrite], *, as_json: bool) -> None:
    if as_json:
        for write in writes:
            typer.echo(json.dumps(asdict(write), ensure_ascii=False))
        return
    rows = [(write.noticed_at, write.operation, write.row, write.by or "-", write.origin or "-") for write in writes]
    typer.echo(table(("NOTICED", "OPERATION", "ROW", "BY", "FROM"), rows) if rows else "no foreign write")


def _check_undo_table(url: str) -> None:
    try:
        problems = at.check(url)
        warnings = check_rights(url)
    except Exception as error:  # every driver has errors of its own; all are said in one line
        raise _failed(url, error) from error
    for problem in (*problems, *(f"warning: {warning}" for warning in warnings)):
        typer.echo(f"{_shown(url)}: {problem}", err=True)
    if problems:
        typer.echo("`troth at init URL` makes the table where it is missing.", err=True)
        raise typer.Exit(1)
    typer.echo(f"{_shown(url)}: undo_log is as AT needs it")


def _check_sql(file: Path, url: str | None, dialect: str | None, *, as_json: bool) -> None:
    if (url is None) == (dialect is None):
        raise typer.BadParameter("--sql wants one of --db URL and --dialect NAME")
    name = "<stdin>" if str(file) == "-" else str(file)
    try:
        text = typer.get_text_stream("stdin").read() if name == "<stdin>" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        typer.echo(f"{name}: {error}", err=True)
        raise typer.Exit(1) from error
    try:
        verdicts = list(check_text(text, dialect) if dialect is not None else check_on_database(text, url or ""))
    except Exception as error:  # every driver has errors of its own; all are said in one line
        raise _failed(url or f"--dialect {dialect}", error) from error
    if as_json:
        for verdict in verdicts:
            typer.echo(json.dumps(asdict(verdict), ensure_ascii=False))
    else:
        _show(name, verdicts)
    if not all(verdict.accepted for verdict in verdicts):
        raise typer.Exit(1)


def _show(name: str, verdicts: Iterable[Verdict]) -> None:
    refused = 0
    count = 0
    for verdict in verdicts:
        count += 1
        first = " ".join(verdict.sql.split())
        short = first if len(first) <= _SHOWN_SQL else f"{first[: _SHOWN_SQL - 1]}…"
        typer.echo(f"{name}:{verdict.line}: {'ok' if verdict.accepted else 'REFUSED'}: {short}")
        if not verdict.accepted:
            refused += 1
            typer.echo(f"    {verdict.reason}")
            if verdict.hint:
                typer.echo(f"    Hint: {verdict.hint}")
    typer.echo(f"{count} statements, {refused} refused")


def _failed(url: str, error: Exception) -> typer.Exit:
    typer.echo(f"{_shown(url)}: {error}", err=True)
    return typer.Exit(1)


def _shown(url: str) -> str:
    """The URL without its password."""
    password = urlsplit(url).password
    return url.replace(f":{password}@", ":***@", 1) if password else url
