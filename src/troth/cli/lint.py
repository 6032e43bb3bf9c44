"""`troth lint` and `troth saga`: what is wrong with sagas before they run, and how they look."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from troth.cli.admin_door import DEFAULT_ADMIN, Admin, AsJson, Xid, ask, of_transaction
from troth.client.saga_diagram import of_definition, of_run
from troth.client.saga_lint import Finding
from troth.client.saga_lint import lint as findings_in
from troth.client.saga_source import Source, read

app = typer.Typer(no_args_is_help=True, help="Draw sagas as Mermaid flowcharts.")

_Paths = Annotated[list[Path], typer.Argument(metavar="PATH...", help="Python files, and directories of them.")]
_File = Annotated[Path, typer.Argument(metavar="FILE", help="The Python file in which the saga stands.")]
_Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of the saga's function.")]


def lint(paths: _Paths, as_json: AsJson = False) -> None:
    """Look for what is wrong with sagas and their steps, without running them. Exit status 1 if something is.

    no-compensation: a step without one. not-serialisable: what a record cannot hold. cycle: steps or sagas that wait
    for each other. reads-what-is-deleted: a compensation that needs what its step has deleted. differs-in-each-run:
    clocks and chance in the body of a saga.
    """
    found = [finding for path in _files(paths) for finding in findings_in(_source(path))]
    if as_json:
        typer.echo(json.dumps([_shown(one) for one in found], indent=2, ensure_ascii=False))
    else:
        for finding in found:
            typer.echo(str(finding))
    if found:
        raise typer.Exit(1)


@app.command()
def draw(file: _File, name: _Name) -> None:
    """Draw a saga as its file defines it."""
    source = _source(file)
    try:
        typer.echo(of_definition(source, name), nl=False)
    except KeyError as error:
        typer.echo(f"{file} has no saga {name}; it has {', '.join(source.sagas) or 'none'}", err=True)
        raise typer.Exit(1) from error


@app.command()
def show(xid: Xid, admin: Admin = DEFAULT_ADMIN) -> None:
    """Draw a saga's run as the coordinator keeps it."""
    typer.echo(of_run(ask(admin, of_transaction(xid))), nl=False)


def _files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(path.rglob("*.py"))
        else:
            yield path


def _source(path: Path) -> Source:
    try:
        return read(path)
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        typer.echo(f"{path}: {error}", err=True)
        raise typer.Exit(2) from error


def _shown(finding: Finding) -> dict[str, object]:
    return {"path": str(finding.path), "line": finding.line, "rule": finding.rule, "text": finding.text}
