"""What AT has to know of a MySQL statement beyond `Statement`: its pieces, to be put together anew.

PyMySQL puts parameters into the text by itself (`%s`, `%(name)s`), so pieces may come in any order and AT's own values
between them; everything that is composed runs with a sequence of parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from troth.client.sql.statement import ParameterCountError, Statement


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of the user's text with `%s` for each placeholder; `places` says which parameters those are: numbers from
    0, or names."""

    text: str = ""
    places: tuple[int | str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.text)


class Source(Enum):
    """Where the rows of an INSERT come from."""

    VALUES = "VALUES"
    SET = "SET"
    QUERY = "SELECT"


@dataclass(frozen=True, slots=True)
class Insertion:
    """The pieces of an INSERT: `head VALUES row, row tail`; for other sources all of it is the head."""

    source: Source
    columns: tuple[str, ...] | None
    """None: no columns are named, so all of the table's are meant, in their order."""
    head: Piece
    rows: tuple[Piece, ...] = ()
    values: tuple[tuple[Piece, ...], ...] = ()
    """The expressions of each row."""
    tail: Piece = Piece()
    """ON DUPLICATE KEY UPDATE … with what stands before it."""
    ignores: bool = False
    upsert_columns: tuple[str, ...] = ()
    """What ON DUPLICATE KEY UPDATE sets; empty if there is none."""


@dataclass(frozen=True, slots=True)
class MySqlStatement(Statement):
    """A statement in pieces. An UPDATE is `head WHERE where tail`, and so is a DELETE."""

    with_clause: Piece = Piece()
    head: Piece = Piece()
    sources: Piece = Piece()
    """The tables as the statement names them: what a SELECT takes as FROM."""
    target: str = ""
    """What the statement calls the table that it writes to: an alias, or the table's name."""
    where: Piece = Piece()
    tail: Piece = Piece()
    """ORDER BY, LIMIT."""
    output: Piece = Piece()
    """What the user wants RETURNING."""
    insertion: Insertion | None = None
    places: frozenset[int | str] = frozenset()
    """All parameters that the statement has places for."""

    @property
    def changed_columns(self) -> tuple[str, ...]:
        """Those of ON DUPLICATE KEY UPDATE, too."""
        return self.set_columns if self.insertion is None else self.insertion.upsert_columns


class Composer:
    """SQL put together of text, pieces and values."""

    def __init__(self, given: Sequence[object] | Mapping[str, object]) -> None:
        self._given = given
        self._texts: list[str] = []
        self.parameters: list[object] = []

    @property
    def sql(self) -> str:
        """The text so far."""
        return "".join(self._texts)

    def add(self, text: str, values: Iterable[object] = ()) -> Composer:
        """Text of ours; `values` are for its placeholders."""
        self._texts.append(text)
        self.parameters += values
        return self

    def piece(self, piece: Piece) -> Composer:
        """A piece of the user's, with its parameters. Raises ParameterCountError."""
        given: Any = self._given  # places are numbers or names, as what was given is a sequence or a mapping
        try:
            values = [given[place] for place in piece.places]
        except (IndexError, KeyError) as error:
            raise ParameterCountError from error
        return self.add(piece.text, values)


def check_parameters(statement: MySqlStatement, given: Sequence[object] | Mapping[str, object]) -> None:
    """Raises ParameterCountError where the driver would complain, too."""
    if isinstance(given, Mapping):
        if not all(isinstance(place, str) and place in given for place in statement.places):
            raise ParameterCountError
    elif len(given) != len(statement.places):
        raise ParameterCountError
