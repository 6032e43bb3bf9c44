"""The table of open increments (`troth_hot_rows`), and what else differs between databases for additive statements.

One row for each column of a hot row to which an open branch has added: so much must not be taken yet. It is written in
the branch's local transaction, so under the hot row's own lock; it goes with the branch's undo row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from troth.client.flow import Flow, Parameters, query
from troth.client.sql.dialects.base import Dialect, match
from troth.client.sql.lexer import Token
from troth.client.sql.tables import Column, Table
from troth.client.sql.undo_codec import DELTA, SERIALIZER

HOT_ROWS: Final = "troth_hot_rows"
_DELTA_CONTEXT: Final = f"{SERIALIZER}={DELTA}"


@dataclass(frozen=True, slots=True)
class HotRows:
    """Additive statements on one kind of database.

    Args:
        table: what SQL calls the table of open increments.
        undo_table: what SQL calls the undo table.
        create: the statements that make the table, if it is not there.
        exists: SELECT that gives a row if the table is there.
        now: the database's clock.
        older: the condition that `created` is more days ago than the one parameter says.
        place, sum_place: the placeholder, and that for a sum; `pairs(n)`: n pairs (xid, branch_id) behind IN.
        tokenize: the database's lexical rules: text, and whether it has placeholders.
        is_exact: whether sums in a column of that type are exact.
        number: a sum as the driver takes it.
        counts: whether a value of such a column, as images hold it, is a number.
    """

    table: str
    undo_table: str
    create: tuple[str, ...]
    exists: str
    now: str
    older: str
    place: str
    sum_place: str
    pairs: Callable[[int], str]
    tokenize: Callable[[str, bool], list[Token]]
    is_exact: Callable[[Column], bool]
    number: Callable[[Decimal], object]
    counts: Callable[[object], bool] = lambda _: True

    def is_there(self) -> Flow[bool]:
        """Whether the database has the table."""
        answer = yield from query(self.exists)
        return bool(answer.rows)

    @property
    def reserved(self) -> str:
        """SELECT of column_name and the sum of its open increments; parameters: row_key, the xid not to count."""
        return (
            f"SELECT column_name, SUM(amount) FROM {self.table} "
            f"WHERE row_key = {self.place} AND xid <> {self.place} GROUP BY column_name"
        )

    def insert(self, count: int) -> str:
        """INSERT of `count` open increments: row_key, column_name, xid, branch_id, amount, one behind the other."""
        row = f"({', '.join([self.place] * 5)}, {self.now})"
        rows = ", ".join([row] * count)
        return f"INSERT INTO {self.table} (row_key, column_name, xid, branch_id, amount, created) VALUES {rows}"

    def delete(self, count: int) -> str:
        """DELETE of the open increments of `count` branches, by pairs (xid, branch_id)."""
        return f"DELETE FROM {self.table} WHERE (xid, branch_id) IN {self.pairs(count)}"

    def delete_old(self, save_days: int) -> tuple[str, Parameters]:
        """DELETE of increments whose undo rows went by their age, and its parameters."""
        sql = (
            f"DELETE FROM {self.table} WHERE {self.older} AND NOT EXISTS (SELECT 1 FROM {self.undo_table} AS u "
            f"WHERE u.xid = {self.table}.xid AND u.branch_id = {self.table}.branch_id)"
        )
        return sql, (save_days,)

    def deltas_among(self, count: int) -> str:
        """SELECT xid, branch_id of those of `count` branches whose undo rows hold deltas."""
        return (
            f"SELECT xid, branch_id FROM {self.undo_table} WHERE (xid, branch_id) IN {self.pairs(count)} "
            f"AND SUBSTR(context, 1, {len(_DELTA_CONTEXT)}) = '{_DELTA_CONTEXT}'"
        )

    def subtract(
        self, dialect: Dialect, table: Table, amounts: Sequence[tuple[str, Decimal]], key: Sequence[tuple[str, object]]
    ) -> tuple[str, Parameters]:
        """UPDATE that takes `amounts` (column, sum) from the row with `key`, and its parameters.

        A column that has become NULL is no number: no row is hit then.
        """
        names = [dialect.quote(name) for name, _ in amounts]
        sets = ", ".join(f"{name} = {name} - {self.sum_place}" for name in names)
        numbers = " AND ".join(f"{name} IS NOT NULL" for name in names)
        where = match(dialect, table, [name for name, _ in key])
        parameters = [*(self.number(added) for _, added in amounts), *(value for _, value in key)]
        return f"UPDATE {table.source} SET {sets} WHERE {where} AND {numbers}", parameters
