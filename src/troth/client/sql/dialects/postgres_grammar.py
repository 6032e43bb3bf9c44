"""Which statement is it? PostgreSQL's grammar, as far as AT has to understand it; the rest is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from types import MappingProxyType
from typing import ClassVar

from troth.client.sql.dialects.postgres_lexer import tokenize
from troth.client.sql.grammar import Parser, Reader, Refused, not_understood, parse_with
from troth.client.sql.lexer import Kind, Token
from troth.client.sql.statement import OR_BY_XA, Fragment, Image, Statement, Verb

_WRITES = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE"})
_NO_FUNCTIONS = frozenset(
    {"ALL", "AND", "ANY", "ARRAY", "AS", "BY", "CASE", "CAST", "COALESCE", "CONFLICT", "DISTINCT", "ELSE", "END"}
    | {"EXCEPT", "EXISTS", "EXTRACT", "FILTER", "FROM", "GREATEST", "IN", "INTERSECT", "INTO", "IS", "JOIN", "KEY"}
    | {"LATERAL", "LEAST", "LIKE", "MATERIALIZED", "NOT", "NULLIF", "ON", "OR", "OVER", "OVERLAY", "POSITION"}
    | {"RETURNING", "ROW", "SELECT", "SET", "SOME", "SUBSTRING", "THEN", "TRIM", "UNION", "USING", "VALUES", "WHEN"}
    | {"WHERE", "WITHIN"}
)
"""Words before a parenthesis that call nothing. (What is not here is asked for: once a connection, no more.)"""
_OUTSIDE = "Run it outside of the global transaction."
_STRENGTHS = frozenset({"UPDATE", "SHARE", "NO", "KEY"})


def parse(sql: str) -> Statement:
    """What `sql` (a text with psycopg's placeholders) is. Never raises."""
    statement = parse_with(_PostgresParser, sql, tokenize)
    if statement.verb is Verb.READ or statement.verb is Verb.LOCKING_READ or statement.verb.writes:
        return replace(statement, calls=_calls(tokenize(sql)))
    return statement


def _calls(tokens: list[Token]) -> frozenset[str]:
    """The names before a parenthesis that are no words of the grammar, and not the target of an INSERT."""
    found = set()
    before = ""  # the word before the name, past its schema
    for token, following in pairwise(tokens):
        is_name = token.kind in (Kind.WORD, Kind.QUOTED)
        if is_name and following.text == "(" and before not in ("INTO", "AS") and token.word not in _NO_FUNCTIONS:
            found.add(token.name)
        if following.text != "." and token.text != ".":
            before = token.word
    return frozenset(found)


class _PostgresParser(Parser):
    with_verbs = frozenset({"INSERT", "UPDATE", "DELETE", "SELECT", "VALUES", "TABLE", "MERGE"})
    other_mode = OR_BY_XA
    other_mode_takes = frozenset(
        {"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "WITH", "CALL", "DO", "COPY", "TRUNCATE"}
    )

    def _with_query(self) -> None:
        if self._word(1) in _WRITES:
            raise Refused(
                f"a WITH clause that holds {self._word(1)} changes rows of which AT has no image.",
                "Execute it as a statement of its own.",
            )
        self._skip_parentheses()

    # --- reads ---

    def select(self) -> Statement:
        if self._find(self._at, {"INTO"}) < len(self._tokens):
            raise Refused("SELECT INTO makes a table, which AT cannot undo.", _OUTSIDE)
        return self._locking_read() or self.read()

    def _locking_read(self) -> Statement | None:
        """SELECT … FOR UPDATE (SHARE, …); its rows must be free of other global transactions."""
        place = self._find(self._at, {"FOR"})
        while place < len(self._tokens):
            if place + 1 < len(self._tokens) and self._tokens[place + 1].word in _STRENGTHS:
                return self._locked_rows(place)
            place = self._find(place + 1, {"FOR"})
        return None

    def _locked_rows(self, locking: int) -> Statement:
        """The one table whose rows are locked. At depth 0 there is one FROM, else it is not one SELECT."""
        hint = "Lock the rows of one table by a statement of its own."
        source = self._find(self._at, {"FROM"})
        if self._find(self._at, {"UNION", "INTERSECT", "EXCEPT"}) < len(self._tokens) or source > locking:
            raise Refused("this SELECT … FOR UPDATE is not understood.", hint)
        where = min(self._find(source, {"WHERE", "ORDER", "LIMIT", "OFFSET", "FETCH", "FOR"}), locking)
        self._at = source + 1
        self._take("ONLY")
        schema, table = self._target()
        if self._symbol() == "*":
            self._at += 1
        alias = self._alias(locking_words=True)
        if self._at != where:
            raise Refused("SELECT … FOR UPDATE over more than one table is not understood.", hint)
        numbers = _parameter_places(self._tokens)
        image = Image(
            self._fragment(0, source, numbers), alias=alias, tail=self._fragment(source, len(self._tokens), numbers)
        )
        return Statement(self._sql, Verb.LOCKING_READ, schema, table, image=image, returns=True, end=self._end)

    def explain(self) -> Statement:
        if any(token.word in ("ANALYZE", "ANALYSE") for token in self._tokens):
            raise Refused("EXPLAIN ANALYZE runs the statement.", "Use EXPLAIN without ANALYZE, or run it outside.")
        return self.read()

    def copy(self) -> Statement:
        if self._find(self._at, {"TO"}) < len(self._tokens) and self._find(self._at, {"STDOUT"}) < len(self._tokens):
            inner = self._tokens[self._at + 2].word if self._at + 2 < len(self._tokens) else ""
            if inner not in _WRITES:
                return self.read()
        raise Refused("COPY writes rows of which AT has no image.", "Use INSERT (executemany), or COPY outside.")

    # --- writes ---

    def insert(self) -> Statement:
        self._at += 1
        if not self._take("INTO"):
            raise not_understood("INSERT")
        schema, table = self._target()
        returning = self._find(self._at, {"RETURNING"})
        action = self._conflict_action(returning)
        columns: tuple[str, ...] = ()
        if action is not None:
            self._at = action
            columns = self._set_columns(self._find(self._at, {"WHERE", "RETURNING"}))
        returns = returning < len(self._tokens)
        return Statement(
            self._sql,
            Verb.INSERT,
            schema,
            table,
            "",
            columns,
            returns=returns,
            end=self._end,
            upsert=action is not None,
        )

    def _conflict_action(self, end: int) -> int | None:
        """Where the assignments of ON CONFLICT … DO UPDATE SET begin, if it has that."""
        for place in range(self._at, end - 1):
            words = (self._tokens[place].word, self._tokens[place + 1].word)
            if self._depths[place] != 0 or words != ("DO", "UPDATE"):
                continue
            if place + 2 >= end or self._tokens[place + 2].word != "SET":
                raise not_understood("ON CONFLICT clause")
            return place + 3
        return None

    def update(self) -> Statement:
        self._at += 1
        self._take("ONLY")
        schema, table = self._target()
        target = self._tokens[self._at - 1].text
        if self._symbol() == "*":
            self._at += 1
        alias_text, alias = self._aliased()
        if not self._take("SET"):
            raise not_understood("UPDATE")
        total = len(self._tokens)
        clauses = self._clauses_of(("FROM", "WHERE", "RETURNING"))
        first = min(clauses.values(), default=total)
        start = self._at
        columns = self._set_columns(first)
        image = self._image(alias, alias_text or target, clauses, "FROM", (start, first))
        return Statement(self._sql, Verb.UPDATE, schema, table, "", columns, image, "RETURNING" in clauses, self._end)

    def delete(self) -> Statement:
        self._at += 1
        if not self._take("FROM"):
            raise not_understood("DELETE")
        self._take("ONLY")
        schema, table = self._target()
        target = self._tokens[self._at - 1].text
        if self._symbol() == "*":
            self._at += 1
        alias_text, alias = self._aliased()
        clauses = self._clauses_of(("USING", "WHERE", "RETURNING"))
        if self._at != min(clauses.values(), default=len(self._tokens)):
            raise not_understood("DELETE")
        image = self._image(alias, alias_text or target, clauses, "USING", (0, 0))
        returns = "RETURNING" in clauses
        return Statement(self._sql, Verb.DELETE, schema, table, image=image, returns=returns, end=self._end)

    def _aliased(self) -> tuple[str, str | None]:
        """The alias as it is written, and as it is meant."""
        before = self._at
        alias = self._alias()
        return (self._tokens[self._at - 1].text if self._at > before else ""), alias

    def _alias(self, *, locking_words: bool = False) -> str | None:
        if self._take("AS"):
            return self._identifier("alias")
        ends = {"SET", "USING", "WHERE", "RETURNING", "FROM"}
        if locking_words:
            ends |= {"ORDER", "LIMIT", "OFFSET", "FETCH", "FOR", "JOIN", "LEFT", "INNER", "CROSS", "GROUP", "HAVING"}
        token = self._tokens[self._at] if self._at < len(self._tokens) else None
        if token is None or token.kind not in (Kind.WORD, Kind.QUOTED) or token.word in ends:
            return None
        return self._identifier("alias")

    def _image(
        self, alias: str | None, target: str, clauses: dict[str, int], source: str, assignments: tuple[int, int]
    ) -> Image:
        total = len(self._tokens)
        returning = clauses.get("RETURNING", total)
        where = clauses.get("WHERE", returning)
        sources = clauses.get(source, where)
        if not sources <= where <= returning:
            raise not_understood("order of clauses")
        if where + 2 < total and self._tokens[where + 1].word == "CURRENT" and self._tokens[where + 2].word == "OF":
            raise Refused("WHERE CURRENT OF is not supported.", "Name the row by its primary key.")
        numbers = _parameter_places(self._tokens)
        return Image(
            self._fragment(*self._with_range, numbers),
            self._fragment(sources + 1, where, numbers),
            self._fragment(where + 1, returning, numbers),
            alias,
            self._fragment(*assignments, numbers),
            self._returned(returning, target, numbers, alone=sources == where),
        )

    def _returned(self, returning: int, target: str, numbers: list[int], *, alone: bool) -> Fragment:
        """What follows RETURNING. A bare `*` would show the columns of the image, too, so it is qualified."""
        total = len(self._tokens)
        fragments: list[Fragment] = []
        start = returning + 1
        for place in range(start, total):
            ends = place + 1 == total or (self._tokens[place + 1].text == "," and self._depths[place + 1] == 0)
            begins = place == returning + 1 or (self._tokens[place - 1].text == "," and self._depths[place - 1] == 0)
            if self._tokens[place].text == "*" and begins and ends:
                if not alone:
                    raise Refused("RETURNING * with more than one table is not supported.", "Name the columns.")
                fragments += [self._fragment(start, place, numbers), Fragment(f" {target}.*", f" {target}.*")]
                start = place + 1
        fragments.append(self._fragment(start, total, numbers))
        return Fragment(
            "".join(part.text for part in fragments),
            "".join(part.numbered for part in fragments),
            tuple(number for part in fragments for number in part.places),
        )

    # --- control, and what is refused ---

    def begin(self) -> Statement:
        self._no_prepared()
        return super().begin()

    def commit(self) -> Statement:
        self._no_prepared()
        return super().commit()

    def rollback(self) -> Statement:
        self._no_prepared()
        return super().rollback()

    def _no_prepared(self) -> None:
        if any(token.word in ("PREPARED", "CHAIN") for token in self._tokens):
            raise Refused("PREPARED and AND CHAIN are not supported by AT.", "Use COMMIT or ROLLBACK alone.")

    def schema_change(self) -> Statement:
        raise Refused(f"{self._word()} changes what AT cannot undo.", _OUTSIDE)

    def procedure(self) -> Statement:
        raise Refused(f"{self._word()} may write rows of which AT has no image.", "Execute the statements yourself.")

    readers: ClassVar[Mapping[str, Reader]] = MappingProxyType(
        {
            "SELECT": select,
            **dict.fromkeys(("VALUES", "TABLE", "SHOW", "SET", "RESET", "FETCH", "MOVE", "CLOSE"), Parser.read),
            **dict.fromkeys(("LISTEN", "UNLISTEN", "DEALLOCATE", "LOCK"), Parser.read),
            "EXPLAIN": explain,
            "COPY": copy,
            "WITH": Parser.with_,
            "INSERT": insert,
            "UPDATE": update,
            "DELETE": delete,
            **dict.fromkeys(("BEGIN", "START"), begin),
            **dict.fromkeys(("COMMIT", "END"), commit),
            **dict.fromkeys(("ROLLBACK", "ABORT"), rollback),
            "SAVEPOINT": Parser.savepoint,
            "RELEASE": Parser.release,
            **dict.fromkeys(("MERGE", "CALL", "DO", "EXECUTE", "PREPARE"), procedure),
            **dict.fromkeys(("CREATE", "DROP", "ALTER", "TRUNCATE", "COMMENT", "GRANT", "REVOKE"), schema_change),
            **dict.fromkeys(("VACUUM", "ANALYZE", "ANALYSE", "CLUSTER", "REINDEX", "REFRESH"), schema_change),
            **dict.fromkeys(("CHECKPOINT", "DISCARD", "IMPORT", "LOAD", "REASSIGN", "SECURITY"), schema_change),
        }
    )


def _parameter_places(tokens: list[Token]) -> list[int]:
    """For each placeholder, which parameter it is (from 0); -1 for other tokens."""
    count = 0
    places: list[int] = []
    for token in tokens:
        places.append(count if token.kind is Kind.PARAMETER else -1)
        count += token.kind is Kind.PARAMETER
    return places
