"""Which statement is it? SQLite's grammar, as far as AT has to understand it; the rest is refused.

In SQLite only the first verb decides whether a statement writes (a CTE can not hold DML), so statements are read from
the front and their clauses are found at parenthesis depth 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import ClassVar

from troth.client.sql.dialects.sqlite_lexer import tokenize
from troth.client.sql.grammar import Parser, Reader, Refused, not_understood, parse_with
from troth.client.sql.lexer import Kind, Token
from troth.client.sql.statement import Fragment, Image, Statement, Verb

_CLAUSES = frozenset({"FROM", "WHERE", "RETURNING", "ORDER", "LIMIT"})
_READ_PRAGMAS = frozenset(
    {"TABLE_INFO", "TABLE_XINFO", "TABLE_LIST", "INDEX_LIST", "INDEX_INFO", "INDEX_XINFO", "FOREIGN_KEY_LIST"}
    | {"FOREIGN_KEY_CHECK", "INTEGRITY_CHECK", "QUICK_CHECK", "DATABASE_LIST", "COLLATION_LIST", "FUNCTION_LIST"}
    | {"COMPILE_OPTIONS", "MODULE_LIST", "PRAGMA_LIST"}
)
_CONNECTION_PRAGMAS = frozenset(
    {"BUSY_TIMEOUT", "CACHE_SIZE", "FOREIGN_KEYS", "JOURNAL_MODE", "MMAP_SIZE", "SYNCHRONOUS", "TEMP_STORE"}
    | {"JOURNAL_SIZE_LIMIT", "QUERY_ONLY", "READ_UNCOMMITTED", "WAL_AUTOCHECKPOINT"}
)
_ACTING_PRAGMAS = frozenset({"INCREMENTAL_VACUUM", "OPTIMIZE", "SHRINK_MEMORY", "WAL_CHECKPOINT"})
_OUTSIDE = "Run it outside of the global transaction."


def parse(sql: str) -> Statement:
    """What `sql` is. Never raises: text that is not understood is a REFUSED statement."""
    return parse_with(_SqliteParser, sql, tokenize)


class _SqliteParser(Parser):
    with_verbs = frozenset({"INSERT", "REPLACE", "UPDATE", "DELETE", "SELECT", "VALUES"})

    def insert(self) -> Statement:
        """INSERT or REPLACE."""
        replaces = self._word() == "REPLACE" or (self._word(1), self._word(2)) == ("OR", "REPLACE")
        self._at += 1
        if replaces:
            self._at += 2 if self._word() == "OR" else 0
        else:
            self._conflict_action()
        if not self._take("INTO"):
            raise not_understood("INSERT")
        schema, table = self._target()
        total = len(self._tokens)
        returning = self._find(self._at, {"RETURNING"})
        sets = list(self._upserts(returning))
        return Statement(
            self._sql,
            Verb.INSERT,
            schema,
            table,
            set_columns=tuple(name for columns in sets for name in columns),
            returns=returning < total,
            end=self._end,
            upsert=bool(sets),
            replaces=replaces,
        )

    def update(self) -> Statement:
        self._at += 1
        self._conflict_action()
        schema, table = self._target()
        alias = self._alias()
        if not self._take("SET"):
            raise not_understood("UPDATE")
        clauses = self._clauses()
        columns = self._set_columns(min(clauses.values(), default=len(self._tokens)))
        image = self._image(alias, clauses)
        returns = "RETURNING" in clauses
        return Statement(self._sql, Verb.UPDATE, schema, table, "", columns, image, returns, self._end)

    def delete(self) -> Statement:
        self._at += 1
        if not self._take("FROM"):
            raise not_understood("DELETE")
        schema, table = self._target()
        alias = self._alias()
        clauses = self._clauses()
        image = self._image(alias, clauses)
        returns = "RETURNING" in clauses
        return Statement(self._sql, Verb.DELETE, schema, table, image=image, returns=returns, end=self._end)

    def pragma(self) -> Statement:
        self._at += 1
        name = self._identifier("PRAGMA").upper()
        if self._symbol() == ".":
            self._at += 1
            name = self._identifier("PRAGMA").upper()
        reads = name in _READ_PRAGMAS or (self._at == len(self._tokens) and name not in _ACTING_PRAGMAS)
        if reads or name in _CONNECTION_PRAGMAS:
            return Statement(self._sql, Verb.READ)
        raise Refused(f"PRAGMA {name.lower()} changes the database in a way that AT cannot undo.", _OUTSIDE)

    def schema_change(self) -> Statement:
        raise Refused(f"{self._word()} changes the schema or the whole file, which AT cannot undo.", _OUTSIDE)

    def _conflict_action(self) -> None:
        if not self._take("OR"):
            return
        action = self._word()
        self._at += 1
        if action not in ("ABORT", "IGNORE"):
            raise Refused(
                f"OR {action} may change rows that the statement does not name.",
                "Use OR ABORT or OR IGNORE.",
            )

    def _alias(self) -> str | None:
        alias = self._identifier("alias") if self._take("AS") else None
        if self._take("INDEXED"):
            self._at += 1
            self._identifier("INDEXED BY")
        elif self._word() == "NOT" and self._word(1) == "INDEXED":
            self._at += 2
        return alias

    def _upserts(self, end: int) -> Iterator[tuple[str, ...]]:
        """What each ON CONFLICT … DO UPDATE before `end` sets."""
        for place in range(self._at, end - 1):
            words = (self._tokens[place].word, self._tokens[place + 1].word)
            if self._depths[place] != 0 or words != ("ON", "CONFLICT"):
                continue
            action = self._find(place, {"DO"})
            if self._word(action + 1 - self._at) == "NOTHING":
                continue
            if [self._word(action + ahead - self._at) for ahead in (1, 2)] != ["UPDATE", "SET"]:
                raise not_understood("ON CONFLICT clause")
            following = self._find(action + 3, {"WHERE", "ON"})
            back, self._at = self._at, action + 3
            yield self._set_columns(min(following, end))
            self._at = back

    def _clauses(self) -> dict[str, int]:
        """Where the clauses behind the target (and SET) begin."""
        found = self._clauses_of(_CLAUSES)
        if "ORDER" in found or "LIMIT" in found:
            raise Refused(
                "ORDER BY and LIMIT of an UPDATE or DELETE are not supported.",
                "Write WHERE key IN (SELECT key FROM … ORDER BY … LIMIT …).",
            )
        return found

    def _image(self, alias: str | None, clauses: dict[str, int]) -> Image:
        total = len(self._tokens)
        returning = clauses.get("RETURNING", total)
        where = clauses.get("WHERE", returning)
        source = clauses.get("FROM", where)
        self._refuse_outer_joins(source, where)
        numbers = _parameter_places(self._tokens)
        return Image(
            self._fragment(*self._with_range, numbers),
            self._fragment(source + 1, where, numbers) if source < where else Fragment(),
            self._fragment(where, returning, numbers),
            alias,
        )

    readers: ClassVar[Mapping[str, Reader]] = MappingProxyType(
        {
            **dict.fromkeys(("SELECT", "VALUES", "EXPLAIN"), Parser.read),
            "WITH": Parser.with_,
            "INSERT": insert,
            "REPLACE": insert,
            "UPDATE": update,
            "DELETE": delete,
            "BEGIN": Parser.begin,
            **dict.fromkeys(("COMMIT", "END"), Parser.commit),
            "ROLLBACK": Parser.rollback,
            "SAVEPOINT": Parser.savepoint,
            "RELEASE": Parser.release,
            "PRAGMA": pragma,
            **dict.fromkeys(
                ("CREATE", "DROP", "ALTER", "ATTACH", "DETACH", "VACUUM", "REINDEX", "ANALYZE"), schema_change
            ),
        }
    )


def _parameter_places(tokens: list[Token]) -> list[int]:
    """For each placeholder, which parameter it is (from 0), numbered as SQLite does; -1 for other tokens."""
    highest = 0
    named: dict[str, int] = {}
    places: list[int] = []
    for token in tokens:
        if token.kind is not Kind.PARAMETER:
            places.append(-1)
            continue
        if token.text == "?":
            number = highest + 1
        elif token.text[0] == "?":
            number = int(token.text[1:])
        else:
            number = named.setdefault(token.text, highest + 1)
        highest = max(highest, number)
        places.append(number - 1)
    return places
