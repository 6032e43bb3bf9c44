"""Commands that are imported when they are called: `troth wire` needs no web server, and `troth serve` no SQL parser.

A command whose libraries are missing says which extra brings them.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import typer
import typer.core
import typer.main


class Entry(NamedTuple):
    """Where a command lives: a function, or a typer.Typer with commands of its own."""

    module: str
    attribute: str
    summary: str
    extra: str | None = None
    """What brings its libraries."""


class LazyGroup(typer.core.TyperGroup):
    """A group whose commands are named in `entries`."""

    entries: ClassVar[Mapping[str, Entry]]

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, in the order of the table."""
        return list(self.entries)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, imported now; None for a name that is not in the table."""
        entry = self.entries.get(cmd_name)
        return None if entry is None else load(cmd_name, entry)


def load(name: str, entry: Entry) -> Any:
    """The click command of `entry`; if a library is missing, one that says so and exits with 2."""
    try:
        found: object = getattr(importlib.import_module(entry.module), entry.attribute)
    except ImportError as missing:
        return _explaining(name, entry, _reason(entry, missing))
    if isinstance(found, typer.Typer):
        group = typer.main.get_group(found)
        group.name = name
        group.short_help = entry.summary
        return group
    holder = typer.Typer(add_completion=False, rich_markup_mode=None)
    holder.command(name, short_help=entry.summary)(found)  # type: ignore[type-var]  # the table names functions only
    return typer.main.get_command(holder)


def _reason(entry: Entry, missing: ImportError) -> str:
    text = str(missing)
    known = "pip install" in text or entry.extra is None
    return text if known else f"{text}: pip install 'troth[{entry.extra}]'"


def _explaining(name: str, entry: Entry, reason: str) -> Any:
    def explain() -> None:
        typer.echo(f"troth {name}: {reason}", err=True)
        raise typer.Exit(2)

    settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    holder = typer.Typer(add_completion=False, rich_markup_mode=None)
    holder.command(name, help=f"{entry.summary} ({reason})", context_settings=settings)(explain)
    return typer.main.get_command(holder)
