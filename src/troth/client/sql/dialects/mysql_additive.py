"""Additive statements on MySQL and MariaDB."""

from __future__ import annotations

from decimal import Decimal

from troth.client.sql.dialects.base_additive import HOT_ROWS, HotRows
from troth.client.sql.dialects.mysql_lexer import tokenize
from troth.client.sql.dialects.mysql_types import Family, family
from troth.client.sql.lexer import Token
from troth.client.sql.tables import Column

CREATE_HOT_ROWS = f"""CREATE TABLE IF NOT EXISTS {HOT_ROWS} (
  row_key     VARCHAR(400)   NOT NULL,
  column_name VARCHAR(64)    NOT NULL,
  xid         VARCHAR(128)   NOT NULL,
  branch_id   BIGINT         NOT NULL,
  amount      DECIMAL(65,30) NOT NULL,
  created     DATETIME(6)    NOT NULL,
  PRIMARY KEY (row_key, column_name, xid, branch_id),
  KEY ix_hot_rows_branch (xid, branch_id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin COMMENT = 'AT: open increments of hot rows'"""


def _pairs(count: int) -> str:
    return f"({', '.join(['(%s, %s)'] * count)})"


def _tokens(sql: str, parameterised: bool) -> list[Token]:
    return tokenize(sql, parameterised=parameterised)


def _is_exact(column: Column) -> bool:
    return family(column) in (Family.INTEGER, Family.DECIMAL)


def _number(added: Decimal) -> object:
    return added


MYSQL_HOT_ROWS = HotRows(
    table=HOT_ROWS,
    undo_table="undo_log",
    create=(CREATE_HOT_ROWS,),
    exists="SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() "
    f"AND TABLE_NAME = '{HOT_ROWS}' AND ENGINE = 'InnoDB'",
    now="NOW(6)",
    older="created < NOW(6) - INTERVAL %s DAY",
    place="%s",
    sum_place="%s",
    pairs=_pairs,
    tokenize=_tokens,
    is_exact=_is_exact,
    number=_number,
)
