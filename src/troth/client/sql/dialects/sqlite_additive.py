"""Additive statements on SQLite: sums of integers only, since its other numbers are floating ones."""

from __future__ import annotations

from decimal import Decimal

from troth.client.sql.dialects.base_additive import HOT_ROWS, HotRows
from troth.client.sql.dialects.sqlite_lexer import tokenize
from troth.client.sql.lexer import Token
from troth.client.sql.tables import Column
from troth.client.sql.values import JdbcType

_NUMBERS = frozenset(
    kind.value
    for kind in (
        JdbcType.TINYINT,
        JdbcType.SMALLINT,
        JdbcType.INTEGER,
        JdbcType.BIGINT,
        JdbcType.NUMERIC,
        JdbcType.DECIMAL,
    )
)

CREATE_HOT_ROWS = (
    f"""CREATE TABLE IF NOT EXISTS main.{HOT_ROWS} (
  row_key     VARCHAR(400) NOT NULL,
  column_name VARCHAR(64)  NOT NULL,
  xid         VARCHAR(128) NOT NULL,
  branch_id   BIGINT       NOT NULL,
  amount      BIGINT       NOT NULL,
  created     DATETIME     NOT NULL,
  PRIMARY KEY (row_key, column_name, xid, branch_id)
) WITHOUT ROWID""",
    f"CREATE INDEX IF NOT EXISTS main.ix_hot_rows_branch ON {HOT_ROWS} (xid, branch_id)",
)


def _pairs(count: int) -> str:
    return f"(VALUES {', '.join(['(?, ?)'] * count)})"


def _tokens(sql: str, _: bool) -> list[Token]:
    return tokenize(sql)


def _is_exact(column: Column) -> bool:
    return column.jdbc_type in _NUMBERS and not column.keeps_real


def _number(added: Decimal) -> object:
    return int(added)


def _is_integer(value: object) -> bool:
    return isinstance(value, int)  # a column of SQLite may hold a text, too


SQLITE_HOT_ROWS = HotRows(
    table=f"main.{HOT_ROWS}",
    undo_table="main.undo_log",
    create=CREATE_HOT_ROWS,
    exists=f"SELECT 1 FROM main.sqlite_master WHERE type = 'table' AND name = '{HOT_ROWS}'",
    now="strftime('%Y-%m-%d %H:%M:%f', 'now')",
    older="created < strftime('%Y-%m-%d %H:%M:%f', 'now', '-' || ? || ' days')",
    place="?",
    sum_place="?",
    pairs=_pairs,
    tokenize=_tokens,
    is_exact=_is_exact,
    number=_number,
    counts=_is_integer,
)
