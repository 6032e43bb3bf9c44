"""`troth`: the commands, and nothing else."""

from __future__ import annotations

from importlib import metadata
from types import MappingProxyType
from typing import Annotated

import typer

from troth.cli.lazy import Entry, LazyGroup


class Commands(LazyGroup):
    """What `troth` can do; a command's module is imported when it is called."""

    entries = MappingProxyType(
        {
            "serve": Entry("troth.cli.serve", "serve", "Run a coordinator.", "server"),
            "demo": Entry("troth.cli.demo", "app", "Watch a purchase over three services and three databases.", "demo"),
            "ls": Entry("troth.cli.transactions", "ls", "List the transactions of a coordinator."),
            "inspect": Entry("troth.cli.transactions", "inspect", "Show one transaction: its branches, rows, errors."),
            "retry": Entry("troth.cli.transactions", "retry", "Ask a transaction's branches again, now."),
            "resolve": Entry("troth.cli.resolve", "resolve", "End a frozen AT branch as you decide, row by row."),
            "audit": Entry("troth.cli.resolve", "audit", "List what operators have decided."),
            "config": Entry("troth.cli.config", "config", "Show every setting, its value, its source.", "server"),
            "at": Entry("troth.cli.at", "app", "Prepare a database for AT, or check it."),
            "tcc": Entry("troth.cli.tcc", "app", "Prepare a database for the fence of TCC, check it, clean it up."),
            "dtm": Entry("troth.cli.dtm", "app", "Prepare a database for the barrier of DTM's style, check it."),
            "xa": Entry("troth.cli.xa", "app", "List what XA has prepared in a database; end orphans."),
            "saga": Entry("troth.cli.lint", "app", "Draw sagas: a definition, or a run."),
            "lint": Entry("troth.cli.lint", "lint", "Find what is wrong with sagas before they run."),
            "undo": Entry("troth.cli.undo", "app", "Translate undo logs between Seata's format and JSON."),
            "wire": Entry("troth.cli.wire", "app", "Translate Seata's frames between hex and JSON."),
        }
    )


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"troth {metadata.version('troth')}")
        raise typer.Exit


@app.callback()
def troth(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Work that spans several services and databases ends all done or all undone.

    Start with `troth demo`. A coordinator of your own: `troth serve`; then `troth ls` shows what it is doing.
    """
