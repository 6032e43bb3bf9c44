"""Guards on PostgreSQL: constraint triggers, which ask at COMMIT whether the transaction was a branch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from troth.client.sql.dialects.base_guard import GUARD, LONGEST_KEY
from troth.client.sql.dialects.postgres_catalogue import literal, spelled
from troth.client.sql.tables import Table

MARK_ON: Final = "SELECT pg_catalog.set_config('troth.writes', 'at', true)"
"""It ends by itself with the local transaction, or with the savepoint that it was set in."""
GUARD_TRIGGERS: Final = (GUARD, f"{GUARD}_truncate")

# The row as it was is what an open branch may hold, so its key names it.
_NOTE = """CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $troth$
DECLARE
  named text := '*';
BEGIN
  IF coalesce(current_setting('troth.writes', true), '') <> '' OR TG_ARGV[2]::jsonb ? session_user::text THEN
    RETURN NULL;
  END IF;
  IF TG_LEVEL = 'ROW' THEN
    SELECT string_agg(coalesce(to_jsonb(CASE TG_OP WHEN 'INSERT' THEN NEW ELSE OLD END) ->> part.name, ''), '_'
        ORDER BY part.place) INTO named
      FROM jsonb_array_elements_text(TG_ARGV[1]::jsonb) WITH ORDINALITY AS part (name, place);
  END IF;
  INSERT INTO {records} (operation, table_name, row_key, db_user, origin)
    VALUES (TG_OP, TG_ARGV[0], left(named, {longest}), session_user,
      concat_ws(' ', nullif(current_setting('application_name'), ''), host(inet_client_addr()),
        'pid ' || pg_backend_pid()));
  RETURN NULL;
END
$troth$"""
_BRANCH = """CREATE OR REPLACE FUNCTION {branch}() RETURNS trigger LANGUAGE plpgsql AS $troth$
BEGIN
  PERFORM pg_catalog.set_config('troth.writes', 'at', true);
  RETURN NULL;
END
$troth$"""


class PostgresGuards:
    """See `Guards`. What belongs to all tables is in `undo_schema`, beside the undo table."""

    names_users = True

    def __init__(self, undo_schema: str) -> None:
        self._records = self._function = spelled(undo_schema, GUARD)
        self._branch = spelled(undo_schema, f"{GUARD}_branch")
        self._undo = spelled(undo_schema, "undo_log")
        self.is_there = f"SELECT 1 WHERE pg_catalog.to_regclass({literal(self._records)}) IS NOT NULL"
        self.guarded = (
            "SELECT CASE n.nspname WHEN 'public' THEN '' ELSE n.nspname || '.' END || c.relname AS name "
            "FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid "
            "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
            f"WHERE t.tgname = '{GUARD}' AND t.tgfoid = pg_catalog.to_regproc({literal(self._function)}) ORDER BY name"
        )

    def create(self, table: Table, trusted: Sequence[str]) -> tuple[str, ...]:
        """The records, two functions, a trigger on the undo table, and two on the table."""
        arguments = ", ".join(literal(part) for part in (table.name, json.dumps(table.key), json.dumps(list(trusted))))
        note = f"EXECUTE FUNCTION {self._function}({arguments})"
        return (
            f"CREATE TABLE IF NOT EXISTS {self._records} (id bigserial PRIMARY KEY, noticed_at timestamptz NOT NULL "
            "DEFAULT pg_catalog.clock_timestamp(), operation text NOT NULL, table_name text NOT NULL, "
            "row_key text NOT NULL, db_user text NOT NULL, origin text NOT NULL)",
            _NOTE.format(function=self._function, records=self._records, longest=LONGEST_KEY),
            _BRANCH.format(branch=self._branch),
            f"DROP TRIGGER IF EXISTS {GUARD} ON {self._undo}",
            f"CREATE TRIGGER {GUARD} AFTER INSERT OR DELETE ON {self._undo} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {self._branch}()",
            *_drop(table.source),
            f"CREATE CONSTRAINT TRIGGER {GUARD} AFTER INSERT OR UPDATE OR DELETE ON {table.source} "
            f"DEFERRABLE INITIALLY DEFERRED FOR EACH ROW {note}",
            f"CREATE TRIGGER {GUARD}_truncate AFTER TRUNCATE ON {table.source} FOR EACH STATEMENT {note}",
        )

    def drop(self, name: str) -> tuple[str, ...]:
        """Drop the triggers."""
        # A dot may belong to the name of a table in `public`; who has that has no trigger of ours under the other.
        schema, _, plain = name.rpartition(".")
        places = [("public", name)] if not schema else [(schema, plain), ("public", name)]
        return tuple(sql for place in places for sql in _drop(spelled(*place)))

    def drop_rest(self) -> tuple[str, ...]:
        """The trigger on the undo table, and the functions."""
        return (
            f"DROP TRIGGER IF EXISTS {GUARD} ON {self._undo}",
            f"DROP FUNCTION IF EXISTS {self._function}(), {self._branch}()",
        )

    def records(self, limit: int) -> str:
        """SELECT of the newest records."""
        return (
            "SELECT to_char(noticed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), operation, "
            f"table_name || ':' || row_key, db_user, origin FROM {self._records} ORDER BY id DESC LIMIT {limit}"
        )


def _drop(source: str) -> tuple[str, ...]:
    return tuple(f"DROP TRIGGER IF EXISTS {name} ON {source}" for name in GUARD_TRIGGERS)
