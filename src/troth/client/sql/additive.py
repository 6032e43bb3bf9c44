"""Additive statements: `UPDATE t SET n = n ± ? WHERE key = ?`, what they did as deltas, and deltas as an undo log.

Two global transactions may have added to the same row at once, since additions can be undone in any order: an undo log
of deltas (`SERIALIZER` names it, so that nobody takes it for images) holds the key and what was added, no values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact, InvalidOperation
from types import MappingProxyType
from typing import Final

from troth.client.sql.lexer import Kind, Token
from troth.client.sql.lockkeys import LockKey, lock_text
from troth.client.sql.undo import Field, KeyType, Row, SqlUndoLog, TableRecords, nothing

ADD: Final = "ADD"
"""`sqlType` of a delta in an undo log."""
LONGEST_ROW_KEY: Final = 400
LONGEST_COLUMN: Final = 64
_TOO_MUCH: Final = Decimal("1e35")
_MOST_DECIMALS: Final = 30
"""What a column of open increments holds in every database: 35 digits before the point, 30 behind it."""
_DIGITS: Final = 200

Floor = int | Decimal | None


# --- which columns ----------------------------------------------------------------------------------------------------


class HotColumns:
    """The columns that additive statements may share, each with its floor (None: there is none)."""

    def __init__(self, given: Mapping[str, Floor]) -> None:
        tables: dict[str, dict[str, Decimal | None]] = {}
        for name, floor in given.items():
            table, dot, column = name.lower().rpartition(".")
            if not dot or not table or not column:
                raise ValueError(f"additive: {name!r} is not a column: write table.column")
            tables.setdefault(table, {})[column] = _as_floor(name, floor)
        self._tables = {table: MappingProxyType(columns) for table, columns in tables.items()}

    def of_table(self, name: str) -> Mapping[str, Decimal | None]:
        """Floors by column (lower case) of the table that lock keys call `name`; empty if none of it is hot."""
        return self._tables.get(name.lower(), MappingProxyType({}))


def _as_floor(name: str, floor: Floor) -> Decimal | None:
    if floor is None:
        return None
    if isinstance(floor, bool) or not Decimal(floor).is_finite():
        raise ValueError(f"additive: the floor of {name} is {floor!r}: give an int, a Decimal, or None for no floor")
    return Decimal(floor)


# --- which statements -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Addition:
    """The columns that an additive statement adds to, and those by which it names its row."""

    columns: tuple[str, ...]
    key: tuple[str, ...]


class _OtherStatement(Exception):
    """It is not additive."""


def recognise(tokens: Sequence[Token]) -> Addition | None:
    """What the statement adds to; None where it is anything but `UPDATE t SET n = n ± ?, … WHERE key = ? [AND …]`.

    Names may be qualified, the sum and each condition may stand in parentheses, values may be cast (`?::int`), and
    RETURNING may follow: so SQLAlchemy and Django write it.
    """
    while tokens and tokens[-1].text == ";":
        tokens = tokens[:-1]
    try:
        return _Reader(tokens).addition()
    except _OtherStatement:
        return None


class _Reader:
    """Reads tokens from the front."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._at = 0

    def addition(self) -> Addition:
        self._expect_word("UPDATE")
        self._take_word("ONLY")
        self._name()
        if not self._take_word("SET"):
            self._take_word("AS")
            self._name()
            self._expect_word("SET")
        columns = self._several(self._assignment, lambda: self._take(","))
        self._expect_word("WHERE")
        key = self._several(self._condition, lambda: self._take_word("AND"))
        ended = self._at == len(self._tokens) or self._take_word("RETURNING")
        if not ended or len(set(columns)) < len(columns) or len(set(key)) < len(key):
            raise _OtherStatement
        return Addition(tuple(columns), tuple(key))

    @staticmethod
    def _several(read: Callable[[], str], goes_on: Callable[[], bool]) -> list[str]:
        found = [read()]
        while goes_on():
            found.append(read())
        return found

    def _assignment(self) -> str:
        column = self._name()
        self._expect("=")
        in_parentheses = self._take("(")
        if self._name() != column or not (self._take("+") or self._take("-")):
            raise _OtherStatement
        self._value(Kind.PARAMETER, Kind.NUMBER)
        if in_parentheses:
            self._expect(")")
        return column

    def _condition(self) -> str:
        in_parentheses = self._take("(")
        column = self._name()
        self._expect("=")
        self._value(Kind.PARAMETER, Kind.NUMBER, Kind.STRING)
        if in_parentheses:
            self._expect(")")
        return column

    def _name(self) -> str:
        """The last part of a name that may be qualified."""
        name = self._identifier()
        while self._take("."):
            name = self._identifier()
        return name

    def _identifier(self) -> str:
        token = self._next()
        if token.kind not in (Kind.WORD, Kind.QUOTED):
            raise _OtherStatement
        return token.name

    def _value(self, *kinds: Kind) -> None:
        if self._next().kind not in kinds:
            raise _OtherStatement
        if self._take(":"):
            self._expect(":")
            self._identifier()

    def _next(self) -> Token:
        if self._at == len(self._tokens):
            raise _OtherStatement
        self._at += 1
        return self._tokens[self._at - 1]

    def _take(self, symbol: str) -> bool:
        found = self._at < len(self._tokens) and self._tokens[self._at].text == symbol
        self._at += found
        return found

    def _take_word(self, word: str) -> bool:
        found = self._at < len(self._tokens) and self._tokens[self._at].word == word
        self._at += found
        return found

    def _expect(self, symbol: str) -> None:
        if not self._take(symbol):
            raise _OtherStatement

    def _expect_word(self, word: str) -> None:
        if not self._take_word(word):
            raise _OtherStatement


# --- what they did ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Amount:
    """What was added to one column; `type` is the column's number of `java.sql.Types`."""

    column: str
    type: int
    added: Decimal


@dataclass(frozen=True, slots=True)
class Delta:
    """What additive statements did to one row. `table` is the catalogue's name, `spelling` how SQL spells it."""

    table: str
    spelling: str
    lock: LockKey
    key: tuple[Field, ...]
    amounts: tuple[Amount, ...]

    @property
    def row_key(self) -> str:
        """`table:pk`, as lock keys have it."""
        return lock_text([self.lock])

    @property
    def increments(self) -> tuple[Amount, ...]:
        """What must stay in the row until it is sure that it will not be taken back."""
        return tuple(amount for amount in self.amounts if amount.added > 0)


def merged(deltas: Iterable[Delta]) -> tuple[Delta, ...]:
    """One delta a row: what one local transaction adds and takes is undone at once, so only the sum counts."""
    rows: dict[LockKey, Delta] = {}
    for delta in deltas:
        known = rows.get(delta.lock)
        rows[delta.lock] = delta if known is None else _sum(known, delta)
    return tuple(rows.values())


def _sum(one: Delta, other: Delta) -> Delta:
    added: dict[str, Amount] = {amount.column: amount for amount in one.amounts}
    for amount in other.amounts:
        known = added.get(amount.column)
        whole = amount.added if known is None else total(amount.added, known.added)
        added[amount.column] = Amount(amount.column, amount.type, whole)
    return Delta(one.table, one.spelling, one.lock, one.key, tuple(added.values()))


def difference(before: object, after: object) -> Decimal | None:
    """`after - before`, where both are exact numbers of the same kind."""
    if type(before) is not type(after) or not isinstance(before, int | str | Decimal) or isinstance(before, bool):
        return None
    try:
        added = total(Decimal(str(after)), Decimal(str(before)).copy_negate())
    except (InvalidOperation, Inexact):
        return None
    exponent = added.as_tuple().exponent
    if not isinstance(exponent, int):
        return None  # not a number, or infinite
    return added if -exponent <= _MOST_DECIMALS and abs(added) < _TOO_MUCH else None


def total(*values: Decimal) -> Decimal:
    """The sum, with all digits. (Python's own `+` keeps 28.) Raises Inexact beyond 200."""
    exactly = Context(prec=_DIGITS, traps=[Inexact, InvalidOperation])
    found = Decimal(0)
    for value in values:
        found = exactly.add(found, value)
    return found


# --- undo logs --------------------------------------------------------------------------------------------------------


def undo_log(delta: Delta) -> SqlUndoLog:
    """A delta as a part of an undo log: the after image holds the key, and in place of values what was added."""
    fields = tuple(
        Field(amount.column, KeyType.NULL, amount.type, format(amount.added, "f")) for amount in delta.amounts
    )
    return SqlUndoLog(
        ADD, delta.spelling, nothing(delta.table), TableRecords(delta.table, (Row((*delta.key, *fields)),))
    )


def amounts_of(row: Row) -> dict[str, Decimal]:
    """What an undo log says was added to the row, by column. Raises ValueError."""
    found: dict[str, Decimal] = {}
    for field in row.fields:
        if field.key_type != KeyType.PRIMARY_KEY:
            if not isinstance(field.value, str):
                raise ValueError(f"the delta of {field.name} is not a text but {field.value!r}")
            try:
                found[field.name] = Decimal(field.value)
            except InvalidOperation as error:
                raise ValueError(f"the delta of {field.name} is {field.value!r}, which is not a number") from error
    return found
