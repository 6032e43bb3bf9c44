"""What PostgreSQL's catalogue says of a table, and which tables AT does not write to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from troth.client.flow import Flow, Rows, query
from troth.client.sql.dialects.postgres_types import CASELESS, EXACT, KEY_TYPES, SCALELESS, jdbc_type, quote
from troth.client.sql.tables import GUARDED, Column, ForeignKey, Refusal, Table, UniqueKey

PARTITIONED = "partitioned"
"""Trait: the table has partitions, so it is named without ONLY."""

_ACTIONS = MappingProxyType({"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"})

# What of the catalogue a definition is made of, as one text: where it has not changed, nor has the definition.
_FINGERPRINT = """
SELECT c.oid::text AS oid, n.nspname AS schema, c.relname AS name, concat_ws(' ',
  c.xmin, n.xmin, n.nspname, c.relname,
  (SELECT string_agg(concat(a.attnum, ':', a.xmin), ' ' ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0),
  (SELECT string_agg(concat(k.oid, ':', k.xmin, (SELECT concat(':', p.xmin, ':', p.relnamespace, ':',
      (SELECT string_agg(a.xmin::text, '.' ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = p.oid AND a.attnum = ANY (k.confkey)))
      FROM pg_catalog.pg_class p WHERE p.oid = k.confrelid)), ' ' ORDER BY k.oid)
    FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid),
  (SELECT string_agg(concat(i.xmin, ':', i.indexrelid::pg_catalog.regclass), ' ' ORDER BY i.indexrelid)
    FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid),
  (SELECT string_agg(concat(t.oid, ':', t.xmin), ' ' ORDER BY t.oid) FROM pg_catalog.pg_trigger t
    WHERE t.tgrelid = c.oid),
  (SELECT count(*) FROM pg_catalog.pg_inherits h WHERE h.inhparent = c.oid),
  CASE c.relkind WHEN 'p' THEN (SELECT string_agg(concat_ws(' ', x.relid,
      (SELECT string_agg(t.xmin::text, ' ' ORDER BY t.oid) FROM pg_catalog.pg_trigger t WHERE t.tgrelid = x.relid),
      (SELECT string_agg(i.xmin::text, ' ' ORDER BY i.indexrelid) FROM pg_catalog.pg_index i
        WHERE i.indrelid = x.relid),
      (SELECT string_agg(k.xmin::text, ' ' ORDER BY k.oid) FROM pg_catalog.pg_constraint k WHERE k.conrelid = x.relid)),
      ' ' ORDER BY x.relid) FROM pg_catalog.pg_partition_tree(c.oid) x) END) AS fingerprint,
  pg_catalog.current_setting('DateStyle') AS datestyle, pg_catalog.current_setting('IntervalStyle') AS intervalstyle,
  pg_catalog.current_setting('extra_float_digits') AS float_digits,
  pg_catalog.current_setting('standard_conforming_strings') AS conforming
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
"""
BY_SPELLING = _FINGERPRINT + "WHERE c.oid = pg_catalog.to_regclass({literal})"
BY_NAME = _FINGERPRINT + (
    "WHERE c.relkind IN ('r', 'p') AND ((n.nspname = 'public' AND c.relname = {literal}) "
    "OR n.nspname || '.' || c.relname = {literal}) ORDER BY n.nspname = 'public' DESC LIMIT 1"
)

# The same for a table that is known, in a quarter of the server's time: what is looked for stands there as a number.
# Whatever first gives a table a trigger (each foreign key has some) or an heir writes its row of pg_class anew.
_PROBE = """
SELECT concat_ws(' ', pg_catalog.to_regclass({literal})::oid, c.xmin, c.relnamespace::pg_catalog.regnamespace,
  ARRAY(SELECT a.xmin FROM pg_catalog.pg_attribute a WHERE a.attrelid = {oid} AND a.attnum > 0 ORDER BY a.attnum),
  ARRAY(SELECT concat(i.xmin, ':', i.indexrelid::pg_catalog.regclass) FROM pg_catalog.pg_index i
    WHERE i.indrelid = {oid} AND i.indisunique ORDER BY i.indexrelid),
  CASE WHEN c.relhastriggers THEN
    ARRAY(SELECT t.xmin FROM pg_catalog.pg_trigger t WHERE t.tgrelid = {oid} ORDER BY t.oid) END,
  CASE WHEN c.relhassubclass THEN
    ARRAY(SELECT h.xmin FROM pg_catalog.pg_inherits h WHERE h.inhparent = {oid} ORDER BY h.inhrelid) END, {parents}
  pg_catalog.current_setting('DateStyle'), pg_catalog.current_setting('IntervalStyle'),
  pg_catalog.current_setting('extra_float_digits'), pg_catalog.current_setting('standard_conforming_strings'))
FROM pg_catalog.pg_class c WHERE c.oid = {oid}
"""
_PARENTS = """
  (SELECT string_agg(concat(k.xmin, (SELECT concat(':', p.xmin, ':', p.relnamespace::pg_catalog.regnamespace, ':',
      ARRAY(SELECT a.xmin FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = p.oid AND a.attnum = ANY (k.confkey) ORDER BY a.attnum))
      FROM pg_catalog.pg_class p WHERE p.oid = k.confrelid)), ' ' ORDER BY k.oid)
    FROM pg_catalog.pg_constraint k WHERE k.conrelid = {oid} AND k.contype = 'f'),"""

_TABLE = """
SELECT json_build_object(
  'schema', n.nspname, 'name', c.relname, 'space', quote_ident(n.nspname),
  'spelling', quote_ident(c.relname), 'kind', c.relkind, 'persistence', c.relpersistence,
  'partition', c.relispartition, 'rules', c.relhasrules, 'secured', pg_catalog.row_security_active(c.oid),
  'children', EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhparent = c.oid) AND c.relkind = 'r',
  'odd_partition', (SELECT p.relname FROM pg_catalog.pg_partition_tree(c.oid) x
    JOIN pg_catalog.pg_class p ON p.oid = x.relid WHERE c.relkind = 'p' AND x.relid <> c.oid AND (p.relkind = 'f'
      OR EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = p.oid AND NOT t.tgisinternal)
      OR EXISTS (SELECT FROM pg_catalog.pg_constraint k
        WHERE k.conrelid = p.oid AND k.contype IN ('f', 'x') AND k.conparentid = 0)
      OR EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = p.oid AND i.indisunique
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = i.indexrelid)))
    ORDER BY p.relname LIMIT 1),
  'triggers', (SELECT json_agg(t.tgname) FROM pg_catalog.pg_trigger t
    WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
      AND t.tgname NOT IN ('troth_guard', 'troth_guard_truncate')),
  'guarded', EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'troth_guard'),
  'exclusions', (SELECT json_agg(k.conname) FROM pg_catalog.pg_constraint k
    WHERE k.conrelid = c.oid AND k.contype = 'x'))::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s::oid
"""
_COLUMNS = """
SELECT json_build_object('number', a.attnum, 'name', a.attname, 'generated', a.attgenerated <> '',
  'identity', a.attidentity, 'typemod', a.atttypmod, 'schema', tn.nspname, 'type', t.typname, 'domain', t.typtype = 'd',
  'kind', b.typtype, 'category', b.typcategory, 'base', CASE b.typtype WHEN 'e' THEN 'enum' ELSE b.typname END,
  'base_schema', bn.nspname, 'deterministic', coalesce(l.collisdeterministic, true),
  'base_typemod', CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END)::text
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
JOIN pg_catalog.pg_namespace tn ON tn.oid = t.typnamespace
JOIN LATERAL (
  WITH RECURSIVE base(oid, typtype, typbasetype) AS (
    SELECT t.oid, t.typtype, t.typbasetype UNION ALL
    SELECT u.oid, u.typtype, u.typbasetype FROM base JOIN pg_catalog.pg_type u ON u.oid = base.typbasetype
    WHERE base.typtype = 'd')
  SELECT oid FROM base WHERE typtype <> 'd') r ON true
JOIN pg_catalog.pg_type b ON b.oid = r.oid JOIN pg_catalog.pg_namespace bn ON bn.oid = b.typnamespace
LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
WHERE a.attrelid = %s::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_INDEXES = """
SELECT json_build_object('name', x.relname, 'primary', i.indisprimary, 'partial', i.indpred IS NOT NULL,
  'numbers', (SELECT json_agg(k.number ORDER BY k.place) FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(number, place)
    WHERE k.place <= i.indnkeyatts),
  'nulls_equal', coalesce((to_json(i)->>'indnullsnotdistinct')::bool, false))::text
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
WHERE i.indrelid = %s::oid AND i.indisunique AND i.indislive ORDER BY x.relname
"""
_FOREIGN_KEYS = """
SELECT json_build_object('child_schema', cn.nspname, 'child', c.relname, 'parent_schema', pn.nspname,
  'parent', p.relname, 'on_update', k.confupdtype, 'on_delete', k.confdeltype, 'own', k.conrelid = {oid}::oid,
  'referred', k.confrelid = {oid}::oid,
  'child_columns', (SELECT json_agg(a.attname ORDER BY u.place) FROM unnest(k.conkey) WITH ORDINALITY u(number, place)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number),
  'parent_columns', (SELECT json_agg(a.attname ORDER BY u.place)
    FROM unnest(k.confkey) WITH ORDINALITY u(number, place)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.number))::text
FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace cn ON cn.oid = c.relnamespace
JOIN pg_catalog.pg_class p ON p.oid = k.confrelid JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0 AND (k.conrelid = {oid}::oid OR k.confrelid = {oid}::oid) ORDER BY k.oid
"""

_WRITING_FUNCTIONS = """
SELECT DISTINCT p.proname FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
WHERE p.proname = ANY (%s::text[]::name[]) AND p.provolatile = 'v' AND (p.proname ~ '^(dblink|lo_|lowrite$)'
  OR (p.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace AND l.lanname NOT IN ('c', 'internal')))
ORDER BY p.proname
"""


@dataclass(frozen=True, slots=True)
class Found:
    """A table that has that name now; `fingerprint` changes when its definition does."""

    oid: str
    fingerprint: str
    problem: str


def literal(text: str) -> str:
    """`text` as a string of SQL; `%` doubled."""
    return "'" + text.replace("'", "''").replace("%", "%%") + "'"


def spelled(schema: str | None, name: str) -> str:
    """The name as SQL has it."""
    return quote(name) if schema is None else f"{quote(schema)}.{quote(name)}"


def finding(sql: str, name: str) -> str:
    """`sql` (BY_SPELLING or BY_NAME) for `name`."""
    return sql.replace("{literal}", literal(name))


def probe(oid: str, name: str, table: Table) -> str:
    """A query whose answer stays the same while the SQL name `name` means this table, with this definition.

    It is not for a table with partitions: what belongs to those is in the fingerprint only.
    """
    parents = _PARENTS if table.parents else ""
    return _PROBE.replace("{parents}", parents).replace("{oid}", f"{int(oid)}::oid").replace("{literal}", literal(name))


def find(sql: str, name: str) -> Flow[Found | None]:
    """The table that `sql` (BY_SPELLING or BY_NAME) finds for `name`."""
    return found_in((yield from query(finding(sql, name))))


def found_in(answer: Rows) -> Found | None:
    """The table in the answer to `finding`."""
    if not answer.rows:
        return None
    row = dict(zip(answer.columns, map(str, answer.rows[0]), strict=True))
    return Found(row["oid"], row["fingerprint"], _settings(row))


def _settings(row: Mapping[str, str]) -> str:
    """Settings of the session with which values would not be read back as they were (empty: none)."""
    if not row["datestyle"].startswith("ISO"):
        return f"DateStyle is {row['datestyle']}: set it to ISO"
    if row["intervalstyle"] == "sql_standard":
        return "IntervalStyle is sql_standard: set it to postgres"
    if int(row["float_digits"]) < 1:
        return f"extra_float_digits is {row['float_digits']}: set it to 1"
    return "" if row["conforming"] == "on" else "standard_conforming_strings is off: set it on"


def read_table(oid: str, undo_table: tuple[str, str]) -> Flow[Table | Refusal]:
    """The definition of the table, or why AT does not write to it."""
    facts = (yield from _objects(_TABLE, oid))[0]
    refusal = _refusal(facts, undo_table)
    if refusal is not None:
        return refusal
    shown = _lock_name(facts["schema"], facts["name"])
    columns = yield from _objects(_COLUMNS, oid)
    indexes = yield from _objects(_INDEXES, oid)
    keys = yield from _objects(_FOREIGN_KEYS.replace("{oid}", literal(oid)))
    names = {column["number"]: column["name"] for column in columns}
    if len({name.lower() for name in names.values()}) < len(names):
        return Refusal(f"columns of {shown} differ in case only.", "Rename one of them.")
    if any(0 in index["numbers"] for index in indexes):
        return Refusal(
            f"{shown} has a unique index over an expression, so its keys cannot be locked.",
            "Put the expression into a generated column and index that.",
        )
    places = {
        names[number]: place
        for index in indexes
        if index["primary"]
        for place, number in enumerate(index["numbers"], start=1)
    }
    if not places:
        return Refusal(
            f"table {shown} has no primary key, so its rows cannot be named.",
            f"Give it one: ALTER TABLE {shown} ADD PRIMARY KEY (…).",
        )
    in_keys = {names[number] for index in indexes for number in index["numbers"]}
    made = {column["name"]: _column(column, places) for column in columns}
    wrong = next((column for column in columns if column["name"] in in_keys and not _is_key_type(column)), None)
    if wrong is not None:
        return Refusal(
            f"the column {wrong['name']} of {shown} is in a unique key, and equal values of its type "
            f"({wrong['type']}) or collation may be spelled in two ways.",
            "Use a plain type and collation for keys.",
        )
    return Table(
        shown,
        tuple(made.values()),
        tuple(_unique_key(index, names, made) for index in indexes if not index["primary"]),
        tuple(_foreign_key(key) for key in keys if key["own"]),
        tuple(_foreign_key(key) for key in keys if key["referred"]),
        spelled(facts["schema"], facts["name"]),
        frozenset(_traits(facts)),
        _lock_name(facts["space"], facts["spelling"]),
    )


def _traits(facts: Mapping[str, Any]) -> Iterator[str]:
    if facts["kind"] == "p":
        yield PARTITIONED
    if facts["guarded"]:
        yield GUARDED


def writing_functions(names: Iterable[str]) -> Flow[frozenset[str]]:
    """Those of the functions (of any schema) that may write: VOLATILE, and neither built in nor of an extension in C.

    PostgreSQL itself keeps a function in SQL or PL/pgSQL that is declared STABLE or IMMUTABLE from writing.
    """
    answer = yield from query(_WRITING_FUNCTIONS, (list(names),))
    return frozenset(str(row[0]) for row in answer.rows)


def _objects(sql: str, *parameters: str) -> Flow[list[Any]]:
    answer = yield from query(sql, parameters)
    return [json.loads(str(row[0])) for row in answer.rows]


def _lock_name(schema: str, name: str) -> str:
    """The table part of lock keys, as Java spells it: without the schema `public`."""
    return name if schema == "public" else f"{schema}.{name}"


def _refusal(facts: Mapping[str, Any], undo_table: tuple[str, str]) -> Refusal | None:
    shown = _lock_name(facts["schema"], facts["name"])
    if (facts["schema"], facts["name"]) == undo_table:
        return Refusal("undo_log belongs to AT.", "Leave it alone inside a global transaction.")
    reasons = (
        (facts["kind"] not in ("r", "p"), "is not an ordinary table", "Write to the tables behind it."),
        (facts["schema"] in ("pg_catalog", "information_schema"), "belongs to the database", "Leave it alone."),
        (facts["persistence"] == "t", "is temporary: phase two cannot see it", "Write to it outside, or use a table."),
        (facts["partition"], "is a partition", "Write to the partitioned table, so that a row has one name."),
        (facts["children"], "has tables that inherit from it", "Use partitions, or write to the children only."),
        (facts["rules"], "has rules, whose writes AT does not see", "Drop the rules."),
        (facts["secured"], "has row security, under which undo may not see the rows", "Use a role that passes it."),
        (
            facts["triggers"],
            f"has the trigger {(facts['triggers'] or [''])[0]}, whose writes AT does not see",
            "Drop or disable it, and do its work in the application.",
        ),
        (
            facts["odd_partition"],
            f"has the partition {facts['odd_partition']}, which is a foreign table, or has triggers or keys of its own",
            "Declare them on the partitioned table, for all partitions.",
        ),
        (facts["exclusions"], "has an exclusion constraint, whose keys cannot be locked", "Use a unique constraint."),
    )
    found = next(((reason, hint) for holds, reason, hint in reasons if holds), None)
    return None if found is None else Refusal(f"{shown} {found[0]}.", found[1])


def _is_key_type(column: Mapping[str, Any]) -> bool:
    return column["base"] in KEY_TYPES and (column["deterministic"] or column["base"] == "citext")


def _column(column: Mapping[str, Any], key_places: Mapping[str, int]) -> Column:
    base = str(column["base"])
    return Column(
        column["name"],
        jdbc_type(base, column["kind"], is_domain=column["domain"]),
        key_places.get(column["name"], 0),
        bool(column["generated"]),
        collation=_folding(column),
        type_name=spelled(column["schema"], column["type"]),
        base_type=base,
        always_identity=column["identity"] == "a",
        modifier=int(column["base_typemod"]),
    )


def _folding(column: Mapping[str, Any]) -> str:
    if column["base"] == "citext":
        return CASELESS
    return SCALELESS if column["base"] == "numeric" and column["base_typemod"] < 0 else EXACT


def _unique_key(index: Mapping[str, Any], names: Mapping[int, str], columns: Mapping[str, Column]) -> UniqueKey:
    keyed = tuple(names[number] for number in index["numbers"])
    foldings = tuple(columns[name].collation for name in keyed)
    return UniqueKey(index["name"], keyed, foldings, bool(index["partial"]), bool(index["nulls_equal"]))


def _foreign_key(key: Mapping[str, Any]) -> ForeignKey:
    return ForeignKey(
        _lock_name(key["child_schema"], key["child"]),
        _lock_name(key["parent_schema"], key["parent"]),
        tuple(key["child_columns"]),
        tuple(key["parent_columns"]),
        _ACTIONS[key["on_update"]],
        _ACTIONS[key["on_delete"]],
        spelled(key["child_schema"], key["child"]),
    )
