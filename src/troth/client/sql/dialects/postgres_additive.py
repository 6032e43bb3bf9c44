"""Additive statements on PostgreSQL."""

from __future__ import annotations

from decimal import Decimal

from troth.client.sql.dialects.base_additive import HOT_ROWS, HotRows
from troth.client.sql.dialects.postgres_catalogue import literal, spelled
from troth.client.sql.dialects.postgres_lexer import tokenize
from troth.client.sql.lexer import Token
from troth.client.sql.tables import Column

_EXACT = frozenset({"int2", "int4", "int8", "numeric"})


def postgres_hot_rows(schema: str, undo_table: str) -> HotRows:
    """`schema` is where the undo table is."""
    table = spelled(schema, HOT_ROWS)
    return HotRows(
        table=table,
        undo_table=undo_table,
        create=(
            f"""CREATE TABLE IF NOT EXISTS {table} (
  row_key     VARCHAR(400) NOT NULL,
  column_name VARCHAR(64)  NOT NULL,
  xid         VARCHAR(128) NOT NULL,
  branch_id   BIGINT       NOT NULL,
  amount      NUMERIC      NOT NULL,
  created     TIMESTAMP(0) NOT NULL,
  PRIMARY KEY (row_key, column_name, xid, branch_id)
)""",
            f"CREATE INDEX IF NOT EXISTS ix_hot_rows_branch ON {table} (xid, branch_id)",
        ),
        exists=f"SELECT 1 WHERE pg_catalog.to_regclass({literal(table.replace('%%', '%'))}) IS NOT NULL",
        now="now()",
        older="created < now() - make_interval(days => %s)",
        place="%s",
        sum_place="%s::numeric",
        pairs=_pairs,
        tokenize=_tokens,
        is_exact=_is_exact,
        number=_number,
    )


def _pairs(count: int) -> str:
    return f"(VALUES {', '.join(['(%s, %s::int8)'] * count)})"


def _tokens(sql: str, _: bool) -> list[Token]:
    return tokenize(sql)


def _is_exact(column: Column) -> bool:
    return column.base_type in _EXACT


def _number(added: Decimal) -> object:
    return format(added, "f")
