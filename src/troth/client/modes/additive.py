"""Hot rows, phase one: which statements are additive, and whether a hot row has so much to give (at.md §6).

A statement runs as any other, between its images, under the database's own row lock. If it only added to hot columns
of one row, what it added is kept beside the images; whoever commits the local transaction then picks: the delta, under
a lock that other adders share, or the images, under an exclusive one.

A decrement is admitted if `value - open increments of others - n >= floor`: so the row stays above its floor whichever
of the others are rolled back. (One's own increments are taken back together with the decrement.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal

from troth.client.errors import FloorReached, NotSupported
from troth.client.flow import Flow, Invoke, Parameters, Rows, postponed, query
from troth.client.sql.additive import (
    LONGEST_COLUMN,
    LONGEST_ROW_KEY,
    Addition,
    Amount,
    Delta,
    Floor,
    HotColumns,
    difference,
    recognise,
    total,
)
from troth.client.sql.dialects.base import Dialect
from troth.client.sql.dialects.base_additive import HOT_ROWS
from troth.client.sql.image import FullRow, Images
from troth.client.sql.lockkeys import LockKey, lock_text
from troth.client.sql.statement import Statement, Verb
from troth.client.sql.tables import Table
from troth.client.sql.undo import Field, KeyType, SqlType

_KEPT = 512

AskElsewhere = Callable[[str, Parameters], object]
"""Runs a query on a connection of its own and gives `Rows`. Awaited in an event loop."""


def additions_of(
    dialect: Dialect, columns: Mapping[str, Floor] | None, elsewhere: AskElsewhere | None = None
) -> Additions | None:
    """The additive statements of a connection that was opened with `additive=columns`. Raises ValueError."""
    return Additions(dialect, HotColumns(columns), elsewhere) if columns else None


class Additions:
    """The additive statements of one connection.

    Args:
        dialect: of the database.
        columns: what is opted in, with floors.
        elsewhere: how to read what is committed *now*, where the connection may see an older state of the database
            (MySQL under REPEATABLE READ); None: a statement always sees what is committed when it begins.
    """

    def __init__(self, dialect: Dialect, columns: HotColumns, elsewhere: AskElsewhere | None = None) -> None:
        self._dialect = dialect
        self._columns = columns
        self._elsewhere = elsewhere
        self._known: dict[tuple[str, bool], Addition | None] = {}
        self._table_is_there = False

    def delta(
        self,
        statement: Statement,
        parameters: Parameters,
        table: Table,
        images: Images,
        locks: Sequence[LockKey],
        *,
        xid: str,
        is_fresh: bool,
    ) -> Flow[Delta | None]:
        """What the statement has added; None if it is not additive. `is_fresh`: nothing was read before it.

        Raises:
            FloorReached: the row has not so much to give.
            NotSupported: a column that is opted in cannot be hot, or the table of open increments is missing.
        """
        floors = self._columns.of_table(table.name)
        addition = self._addition(statement, parameters) if floors else None
        if addition is None or len(locks) != 1:
            return None
        self._check_columns(table, floors)
        if not _fits(addition, table, floors):
            return None
        rows = _the_row(images)
        amounts = None if rows is None else self._amounts(table, addition, *rows)
        if rows is None or amounts is None or len(lock_text(locks)) > LONGEST_ROW_KEY:
            return None
        yield from self._open()
        key = self._key(table, rows[0])
        made = Delta(table.name, table.spelling or table.name, locks[0], key, amounts)
        yield from self._admit(made, table, floors, rows[0], xid=xid, is_fresh=is_fresh)
        return made

    def _addition(self, statement: Statement, parameters: Parameters) -> Addition | None:
        if statement.verb is not Verb.UPDATE:
            return None
        place = (statement.sql, bool(parameters))
        if place not in self._known:
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[place] = recognise(self._dialect.hot_rows.tokenize(*place))
        return self._known[place]

    def _check_columns(self, table: Table, floors: Mapping[str, Decimal | None]) -> None:
        for name in floors:
            if not table.has(name):
                raise NotSupported(f"additive: {table.name} has no column {name}.", "Look at the spelling.")
            column = table.column(name)
            if column.generated or not self._dialect.hot_rows.is_exact(column) or len(column.name) > LONGEST_COLUMN:
                raise NotSupported(
                    f"additive: sums in {table.name}.{name} are not exact.", "Only integers and decimals can be hot."
                )

    def _amounts(self, table: Table, addition: Addition, before: FullRow, after: FullRow) -> tuple[Amount, ...] | None:
        """What was added, column by column; None if anything else has changed, too, or it is no exact number."""
        added = {table.place(name) for name in addition.columns}
        amounts: list[Amount] = []
        for place, column in enumerate(table.columns):
            if place in added:
                one = difference(before[place], after[place])
                if one is None or not self._dialect.hot_rows.counts(before[place]):
                    return None
                amounts.append(Amount(column.name, column.jdbc_type, one))
            elif not column.generated and before[place] != after[place]:
                return None
        return tuple(amounts)

    def _key(self, table: Table, row: FullRow) -> tuple[Field, ...]:
        places = [place for place, column in enumerate(table.columns) if column.key_position]
        return tuple(self._dialect.field(table.columns[place], KeyType.PRIMARY_KEY, row[place]) for place in places)

    def _open(self) -> Flow[None]:
        if self._table_is_there:
            return
        if not (yield from self._dialect.hot_rows.is_there()):
            raise NotSupported(
                f"additive statements need the table {HOT_ROWS}, and it is not there.",
                "Make it with `troth at init --hot-rows URL` or `troth.at.init(url, hot_rows=True)`.",
            )
        self._table_is_there = True

    # --- the floor ---

    def _admit(
        self,
        delta: Delta,
        table: Table,
        floors: Mapping[str, Decimal | None],
        before: FullRow,
        *,
        xid: str,
        is_fresh: bool,
    ) -> Flow[None]:
        taken = [amount for amount in delta.amounts if amount.added < 0 and floors[amount.column.lower()] is not None]
        if not taken:
            return
        reserved = yield from self._reserved(delta.row_key, xid, is_fresh=is_fresh)
        for amount in taken:
            floor = floors[amount.column.lower()]
            value = Decimal(str(before[table.place(amount.column)]))
            held = reserved.get(amount.column, Decimal(0))
            if floor is not None and total(value, held.copy_negate(), amount.added) < floor:
                raise FloorReached(
                    key=delta.row_key,
                    column=amount.column,
                    floor=floor,
                    value=value,
                    reserved=held,
                    wanted=-amount.added,
                )

    def _reserved(self, row_key: str, xid: str, *, is_fresh: bool) -> Flow[dict[str, Decimal]]:
        """The sums of others' open increments, by column. The row is locked, so none can come meanwhile."""
        sql, parameters = self._dialect.hot_rows.reserved, (row_key, xid)
        if self._elsewhere is None or is_fresh:
            answer = yield from query(sql, parameters)
        else:
            found = yield Invoke(self._elsewhere, (sql, parameters))
            if not isinstance(found, Rows):
                raise TypeError(f"a query is answered with Rows, not with {type(found).__name__}")
            answer = found
        return {str(column): Decimal(str(held)) for column, held in answer.rows}


def _fits(addition: Addition, table: Table, floors: Mapping[str, Decimal | None]) -> bool:
    """Whether all that it adds to is hot, and its row is named by the whole primary key."""
    key = sorted(name.lower() for name in addition.key)
    return all(name.lower() in floors for name in addition.columns) and key == sorted(
        name.lower() for name in table.key
    )


def _the_row(images: Images) -> tuple[FullRow, FullRow] | None:
    """The one row that was changed, before and after."""
    touched = images.touched
    if len(touched) != 1 or touched[0].sql_type is not SqlType.UPDATE or len(touched[0].before) != 1:
        return None
    return touched[0].before[0], touched[0].after[0]


def reserve(dialect: Dialect, xid: str, branch_id: int, deltas: Sequence[Delta]) -> Flow[None]:
    """Write the open increments of a branch, in the local transaction that made them."""
    rows = [
        (delta.row_key, amount.column, xid, branch_id, dialect.hot_rows.number(amount.added))
        for delta in deltas
        for amount in delta.increments
    ]
    if rows:
        yield from postponed(dialect.hot_rows.insert(len(rows)), [value for row in rows for value in row])
