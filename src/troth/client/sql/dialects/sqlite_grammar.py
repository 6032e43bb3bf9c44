"""Which statement is it? SQLite's grammar, as far as AT has to understand it; the rest is refused.

In SQLite only the first verb decides whether a statement writes (a CTE can not hold DML), so statements are read from
the front and their clauses are found at parenthesis depth 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from troth.client.sql.dialects.sqlite_lexer import Kind, LexicalError, Token, tokenize
from troth.client.sql.statement import MARK, Fragment, Image, Statement, Verb

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
    if MARK in sql:
        return Statement(sql, Verb.REFUSED, reason="a NUL character in SQL text is not understood.")
    try:
        return _Parser(sql, tokenize(sql)).statement()
    except (LexicalError, _Refused) as error:
        hint = error.hint if isinstance(error, _Refused) else "AT changes only rows it can restore; simplify it."
        return Statement(sql, Verb.REFUSED, reason=str(error), hint=hint)


class _Refused(Exception):
    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.hint = hint


def _not_understood(what: str) -> _Refused:
    return _Refused(f"this {what} is not understood, so its rows could not be restored.", "Write it in a plainer way.")


class _Parser:
    """Reads tokens from the front; `self._at` is the place of the next one."""

    def __init__(self, sql: str, tokens: list[Token]) -> None:
        self._sql = sql
        self._tokens = _without_end(tokens)
        self._at = 0
        self._depths = _depths(self._tokens)
        self._end = self._tokens[-1].end if self._tokens else 0
        self._with_range = (0, 0)

    # --- moving ---

    def _word(self, ahead: int = 0) -> str:
        place = self._at + ahead
        return self._tokens[place].word if place < len(self._tokens) else ""

    def _symbol(self) -> str:
        return self._tokens[self._at].text if self._at < len(self._tokens) else ""

    def _take(self, *words: str) -> bool:
        if self._word() in words and self._word():
            self._at += 1
            return True
        return False

    def _identifier(self, what: str) -> str:
        if self._at < len(self._tokens) and self._tokens[self._at].kind in (Kind.WORD, Kind.QUOTED):
            self._at += 1
            return self._tokens[self._at - 1].name
        raise _not_understood(what)

    # --- statements ---

    def statement(self) -> Statement:
        if not self._tokens:
            return Statement(self._sql, Verb.READ)
        if any(token.text == ";" for token in self._tokens):
            raise _Refused("several statements in one text are not understood.", "Execute them one by one.")
        reader = _READERS.get(self._word())
        if reader is None:
            raise _not_understood("statement")
        return reader(self)

    def read(self) -> Statement:
        return Statement(self._sql, Verb.READ)

    def with_(self) -> Statement:
        self._skip_with()
        if self._word() in ("INSERT", "REPLACE", "UPDATE", "DELETE", "SELECT", "VALUES"):
            self._with_range = (0, self._at)
            return _READERS[self._word()](self)
        raise _not_understood("WITH statement")

    def _skip_with(self) -> None:
        self._at += 1
        self._take("RECURSIVE")
        while True:
            self._identifier("WITH clause")
            if self._symbol() == "(":
                self._skip_parentheses()
            if not self._take("AS"):
                raise _not_understood("WITH clause")
            self._take("NOT")
            self._take("MATERIALIZED")
            self._skip_parentheses()
            if self._symbol() != ",":
                return
            self._at += 1

    def _skip_parentheses(self) -> None:
        if self._symbol() != "(":
            raise _not_understood("WITH clause")
        depth = self._depths[self._at]
        self._at += 1
        while self._at < len(self._tokens) and self._depths[self._at] > depth:
            self._at += 1
        self._at += 1

    def insert(self) -> Statement:
        self._at += 1
        self._conflict_action()
        if not self._take("INTO"):
            raise _not_understood("INSERT")
        schema, table = self._target()
        self._refuse_upsert()
        returns = self._find(self._at, {"RETURNING"}) < len(self._tokens)
        return Statement(self._sql, Verb.INSERT, schema, table, returns=returns, end=self._end)

    def replace(self) -> Statement:
        raise _Refused(
            "REPLACE deletes the rows it conflicts with, and AT does not see which.",
            "Use INSERT, or UPDATE the row that is there.",
        )

    def update(self) -> Statement:
        self._at += 1
        self._conflict_action()
        schema, table = self._target()
        alias = self._alias()
        if not self._take("SET"):
            raise _not_understood("UPDATE")
        clauses = self._clauses()
        columns = self._set_columns(min(clauses.values(), default=len(self._tokens)))
        image = self._image(alias, clauses)
        returns = "RETURNING" in clauses
        return Statement(self._sql, Verb.UPDATE, schema, table, "", columns, image, returns, self._end)

    def delete(self) -> Statement:
        self._at += 1
        if not self._take("FROM"):
            raise _not_understood("DELETE")
        schema, table = self._target()
        alias = self._alias()
        clauses = self._clauses()
        image = self._image(alias, clauses)
        returns = "RETURNING" in clauses
        return Statement(self._sql, Verb.DELETE, schema, table, image=image, returns=returns, end=self._end)

    def begin(self) -> Statement:
        return Statement(self._sql, Verb.BEGIN)

    def commit(self) -> Statement:
        return Statement(self._sql, Verb.COMMIT)

    def rollback(self) -> Statement:
        self._at += 1
        self._take("TRANSACTION")
        if not self._take("TO"):
            return Statement(self._sql, Verb.ROLLBACK)
        self._take("SAVEPOINT")
        return Statement(self._sql, Verb.ROLLBACK_TO, name=self._identifier("ROLLBACK"))

    def savepoint(self) -> Statement:
        self._at += 1
        return Statement(self._sql, Verb.SAVEPOINT, name=self._identifier("SAVEPOINT"))

    def release(self) -> Statement:
        self._at += 1
        if self._word() == "SAVEPOINT" and self._at + 1 < len(self._tokens):
            self._at += 1
        return Statement(self._sql, Verb.RELEASE, name=self._identifier("RELEASE"))

    def pragma(self) -> Statement:
        self._at += 1
        name = self._identifier("PRAGMA").upper()
        if self._symbol() == ".":
            self._at += 1
            name = self._identifier("PRAGMA").upper()
        reads = name in _READ_PRAGMAS or (self._at == len(self._tokens) and name not in _ACTING_PRAGMAS)
        if reads or name in _CONNECTION_PRAGMAS:
            return Statement(self._sql, Verb.READ)
        raise _Refused(f"PRAGMA {name.lower()} changes the database in a way that AT cannot undo.", _OUTSIDE)

    def schema_change(self) -> Statement:
        raise _Refused(f"{self._word()} changes the schema or the whole file, which AT cannot undo.", _OUTSIDE)

    # --- clauses ---

    def _conflict_action(self) -> None:
        if not self._take("OR"):
            return
        action = self._word()
        self._at += 1
        if action not in ("ABORT", "IGNORE"):
            raise _Refused(
                f"OR {action} may change rows that the statement does not name.",
                "Use OR ABORT or OR IGNORE.",
            )

    def _target(self) -> tuple[str | None, str]:
        name = self._identifier("target table")
        if self._symbol() != ".":
            return None, name
        self._at += 1
        return name, self._identifier("target table")

    def _alias(self) -> str | None:
        alias = self._identifier("alias") if self._take("AS") else None
        if self._take("INDEXED"):
            self._at += 1
            self._identifier("INDEXED BY")
        elif self._word() == "NOT" and self._word(1) == "INDEXED":
            self._at += 2
        return alias

    def _refuse_upsert(self) -> None:
        for place in range(self._at, len(self._tokens) - 1):
            if (
                self._depths[place] == 0
                and self._tokens[place].word == "CONFLICT"
                and self._tokens[place - 1].word == "ON"
            ):
                action = self._find(place, {"DO"})
                if action + 1 >= len(self._tokens) or self._tokens[action + 1].word != "NOTHING":
                    raise _Refused(
                        "ON CONFLICT DO UPDATE changes rows of which AT has no image.",
                        "Use ON CONFLICT DO NOTHING and look at the row count, then UPDATE.",
                    )

    def _clauses(self) -> dict[str, int]:
        """Where the clauses behind the target (and SET) begin."""
        found: dict[str, int] = {}
        place = self._find(self._at, _CLAUSES)
        while place < len(self._tokens):
            found[self._tokens[place].word] = place
            place = self._find(place + 1, _CLAUSES)
        if "ORDER" in found or "LIMIT" in found:
            raise _Refused(
                "ORDER BY and LIMIT of an UPDATE or DELETE are not supported.",
                "Write WHERE key IN (SELECT key FROM … ORDER BY … LIMIT …).",
            )
        return found

    def _find(self, place: int, words: Iterable[str]) -> int:
        """The next of `words` at depth 0, from `place` on; the number of tokens if there is none."""
        for here in range(place, len(self._tokens)):
            if self._depths[here] == 0 and self._tokens[here].word in words and not self._is_distinct_from(here):
                return here
        return len(self._tokens)

    def _is_distinct_from(self, place: int) -> bool:
        return self._tokens[place].word == "FROM" and place > 0 and self._tokens[place - 1].word == "DISTINCT"

    def _set_columns(self, end: int) -> tuple[str, ...]:
        columns: list[str] = []
        starts = True
        while self._at < end:
            if starts and self._symbol() == "(":
                columns += self._column_list()
            elif starts:
                columns.append(self._identifier("SET clause"))
            starts = self._at < end and self._depths[self._at] == 0 and self._symbol() == ","
            self._at += 1
        return tuple(columns)

    def _column_list(self) -> list[str]:
        columns: list[str] = []
        while self._symbol() != ")":
            self._at += 1
            columns.append(self._identifier("SET clause"))
        self._at += 1
        return columns

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

    def _refuse_outer_joins(self, start: int, end: int) -> None:
        for place in range(start, end):
            if self._depths[place] == 0 and self._tokens[place].word in ("RIGHT", "FULL"):
                raise _Refused("UPDATE … FROM with a RIGHT or FULL JOIN is not supported.", "Use a subquery.")

    def _fragment(self, start: int, end: int, numbers: list[int]) -> Fragment:
        if start >= end:
            return Fragment()
        left, right = self._tokens[start].start, self._tokens[end - 1].end
        pieces: list[str] = []
        places: list[int] = []
        for here in range(start, end):
            token = self._tokens[here]
            if token.kind is Kind.PARAMETER:
                pieces += (self._sql[left : token.start], MARK)
                places.append(numbers[here])
                left = token.end
        text = self._sql[self._tokens[start].start : right]
        return Fragment(text, "".join(pieces) + self._sql[left:right], tuple(places))


_READERS: Mapping[str, Callable[[_Parser], Statement]] = MappingProxyType(
    {
        **dict.fromkeys(("SELECT", "VALUES", "EXPLAIN"), _Parser.read),
        "WITH": _Parser.with_,
        "INSERT": _Parser.insert,
        "REPLACE": _Parser.replace,
        "UPDATE": _Parser.update,
        "DELETE": _Parser.delete,
        "BEGIN": _Parser.begin,
        **dict.fromkeys(("COMMIT", "END"), _Parser.commit),
        "ROLLBACK": _Parser.rollback,
        "SAVEPOINT": _Parser.savepoint,
        "RELEASE": _Parser.release,
        "PRAGMA": _Parser.pragma,
        **dict.fromkeys(
            ("CREATE", "DROP", "ALTER", "ATTACH", "DETACH", "VACUUM", "REINDEX", "ANALYZE"), _Parser.schema_change
        ),
    }
)


def _without_end(tokens: list[Token]) -> list[Token]:
    while tokens and tokens[-1].text == ";":
        tokens = tokens[:-1]
    return tokens


def _depths(tokens: list[Token]) -> list[int]:
    """The parenthesis depth of each token; a parenthesis itself counts as outside."""
    depths: list[int] = []
    depth = 0
    for token in tokens:
        if token.kind is Kind.SYMBOL and token.text == ")":
            depth -= 1
        depths.append(depth)
        if token.kind is Kind.SYMBOL and token.text == "(":
            depth += 1
    return depths


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
