"""What AT has to know of a statement: what it does, to which table, and the pieces of its text that make an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from troth.client.errors import NotSupported
from troth.client.sql.tables import Table


class Verb(Enum):
    """What a statement does, as far as AT cares."""

    READ = "read"
    INSERT = "INSERT"
    UPDATE = "UPDATE"
    DELETE = "DELETE"
    BEGIN = "BEGIN"
    COMMIT = "COMMIT"
    ROLLBACK = "ROLLBACK"
    SAVEPOINT = "SAVEPOINT"
    RELEASE = "RELEASE"
    LOCKING_READ = "SELECT … FOR UPDATE"
    ROLLBACK_TO = "ROLLBACK TO"
    REFUSED = "refused"

    @property
    def writes(self) -> bool:
        """Whether the statement changes rows (and AT takes images of them)."""
        return self in (Verb.INSERT, Verb.UPDATE, Verb.DELETE)


class ParameterCountError(ValueError):
    """Fewer parameters were given than the statement has places for."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """A piece of the user's text. `text` is verbatim, `numbered` has its placeholders as ?1, ?2 …, and `places` says
    which of the statement's parameters (from 0) those are."""

    text: str = ""
    numbered: str = ""
    places: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Image:
    """The pieces of an UPDATE or DELETE that choose its rows, in the order of the text: `WITH …`, `FROM …`, `WHERE …`.

    `alias` is the name that the user gave the target table, if any. The rest is for dialects that build another
    statement out of the pieces: what is set, what is returned, and what stands between (ORDER BY …).
    """

    with_clause: Fragment = Fragment()
    sources: Fragment = Fragment()
    where: Fragment = Fragment()
    alias: str | None = None
    assignments: Fragment = Fragment()
    returning: Fragment = Fragment()
    tail: Fragment = Fragment()

    def parameters(self, given: Sequence[object] | Mapping[str, object]) -> Sequence[object] | Mapping[str, object]:
        """The parameters of the image, out of those of the whole statement."""
        if isinstance(given, Mapping):
            return given
        try:
            return [given[place] for part in self._parts for place in part.places]
        except IndexError as error:
            raise ParameterCountError from error

    def texts(self, *, named: bool) -> tuple[str, str, str]:
        """WITH, FROM and WHERE as text; `named` where the parameters are a mapping."""
        if named:
            return self.with_clause.text, self.sources.text, self.where.text
        texts: list[str] = []
        offset = 0
        for part in self._parts:
            texts.append(_shift(part.numbered, len(part.places), offset))
            offset += len(part.places)
        return texts[0], texts[1], texts[2]

    @property
    def _parts(self) -> tuple[Fragment, Fragment, Fragment]:
        return self.with_clause, self.sources, self.where


MARK = "\x00"
"""Stands for a placeholder in `Fragment.numbered`: SQL text never holds it."""


def compose(
    given: Sequence[object] | Mapping[str, object], mark: Callable[[int], str], *pieces: str | Fragment
) -> tuple[str, Sequence[object] | Mapping[str, object]]:
    """SQL out of `pieces` in another order than the user's, with the parameters in that order.

    `mark(n)` is the placeholder for the n-th parameter of the new text (from 0). Named parameters keep their names.

    Raises:
        ParameterCountError: a piece has a place for a parameter that was not given.
    """
    if isinstance(given, Mapping):
        return "".join(piece if isinstance(piece, str) else piece.text for piece in pieces), given
    texts: list[str] = []
    parameters: list[object] = []
    for piece in pieces:
        if isinstance(piece, str):
            texts.append(piece)
            continue
        for part, place in zip(piece.numbered.split(MARK), [*piece.places, None], strict=True):
            texts.append(part)
            if place is not None:
                if place >= len(given):
                    raise ParameterCountError
                texts.append(mark(len(parameters)))
                parameters.append(given[place])
    return "".join(texts), parameters


def _shift(numbered: str, count: int, offset: int) -> str:
    pieces = numbered.split(MARK)
    numbers = [f"?{offset + place + 1}" for place in range(count)]
    return "".join(piece + number for piece, number in zip(pieces, [*numbers, ""], strict=True))


OR_BY_XA: Final = "Or run it on a connection of troth.xa.connect()."
"""A hint: there, the database itself keeps everything undone until the end."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement. What is not understood has the verb REFUSED, with a reason and a hint."""

    sql: str
    verb: Verb
    schema: str | None = None
    table: str = ""
    """Target of a write, as the user spells it."""
    name: str = ""
    """Name of a savepoint."""
    set_columns: tuple[str, ...] = ()
    """Columns that an UPDATE sets, as the user spells them."""
    image: Image = Image()
    returns: bool = False
    """The user's statement has a RETURNING clause."""
    end: int = 0
    """Where the text ends: behind its last token, before any `;`."""
    upsert: bool = False
    """The INSERT updates rows that are there already; `set_columns` are what it sets then."""
    replaces: bool = False
    """The INSERT deletes the rows that are in its way (REPLACE)."""
    reason: str = ""
    hint: str = ""
    more: tuple[Statement, ...] = ()
    """The statement writes to several tables: what it is for each of the others."""
    more_tables: tuple[Table, ...] = ()
    """Those of `more`, once they are looked up."""
    calls: frozenset[str] = frozenset()
    """Names that stand before a parenthesis, and may be those of functions (where the dialect asks for them)."""

    @property
    def changed_columns(self) -> tuple[str, ...]:
        """Columns of rows that are there already that it may change."""
        return self.set_columns

    def refusal(self) -> NotSupported:
        """The error to raise for a REFUSED statement."""
        return NotSupported(self.reason, self.hint or None)

    def returning(self, expressions: str) -> str:
        """The statement with `expressions` returned too, behind what the user asked for."""
        joint = ", " if self.returns else " RETURNING "
        return f"{self.sql[: self.end]}\n{joint}{expressions}"
