"""Reading a statement from the front: what the grammars of all dialects share.

A grammar understands only what AT has to know (which verb, which table, which pieces of the text choose the rows) and
refuses the rest. Clauses are found at parenthesis depth 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, TypeAlias

from troth.client.sql.lexer import Kind, LexicalError, Token
from troth.client.sql.statement import MARK, Fragment, Statement, Verb

_FIRST_WORD = re.compile(r"[A-Za-z]+|$")


class Refused(Exception):
    """The statement is not one for AT: the reason is the text, and `hint` says what to do."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.hint = hint


def not_understood(what: str) -> Refused:
    """The refusal of what a grammar does not know."""
    return Refused(f"this {what} is not understood, so its rows could not be restored.", "Write it in a plainer way.")


Reader: TypeAlias = Callable[[Any], Statement]
"""A method of a dialect's own parser."""


class Parser:
    """Reads tokens from the front; `self._at` is the place of the next one. Dialects inherit from it."""

    readers: ClassVar[Mapping[str, Reader]]
    """What reads a statement that begins with that word."""
    with_verbs: ClassVar[frozenset[str]]
    """The words that may follow a WITH clause."""
    other_mode: ClassVar[str] = ""
    """Where a refused statement that begins with one of `other_mode_takes` may run instead, as a hint."""
    other_mode_takes: ClassVar[frozenset[str]] = frozenset()

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
        raise not_understood(what)

    def _find(self, place: int, words: Collection[str]) -> int:
        """The next of `words` at depth 0, from `place` on; the number of tokens if there is none."""
        for here in range(place, len(self._tokens)):
            if self._depths[here] == 0 and self._tokens[here].word in words and not self._is_distinct_from(here):
                return here
        return len(self._tokens)

    def _is_distinct_from(self, place: int) -> bool:
        return self._tokens[place].word == "FROM" and place > 0 and self._tokens[place - 1].word == "DISTINCT"

    def _skip_parentheses(self, what: str = "WITH clause") -> None:
        if self._symbol() != "(":
            raise not_understood(what)
        depth = self._depths[self._at]
        self._at += 1
        while self._at < len(self._tokens) and self._depths[self._at] > depth:
            self._at += 1
        self._at += 1

    # --- statements ---

    def statement(self) -> Statement:
        """The statement that the tokens are. Raises Refused."""
        if not self._tokens:
            return Statement(self._sql, Verb.READ)
        if any(token.text == ";" for token in self._tokens):
            raise Refused("several statements in one text are not understood.", "Execute them one by one.")
        reader = self.readers.get(self._word())
        if reader is None:
            raise not_understood("statement")
        return reader(self)

    def read(self) -> Statement:
        """A statement that changes nothing."""
        return Statement(self._sql, Verb.READ)

    def with_(self) -> Statement:
        """WITH …, then the statement proper."""
        self._skip_with()
        if self._word() in self.with_verbs:
            self._with_range = (0, self._at)
            return self.readers[self._word()](self)
        raise not_understood("WITH statement")

    def _skip_with(self) -> None:
        self._at += 1
        self._take("RECURSIVE")
        while True:
            self._identifier("WITH clause")
            if self._symbol() == "(":
                self._skip_parentheses()
            if not self._take("AS"):
                raise not_understood("WITH clause")
            self._take("NOT")
            self._take("MATERIALIZED")
            self._with_query()
            if self._symbol() != ",":
                return
            self._at += 1

    def _with_query(self) -> None:
        self._skip_parentheses()

    def begin(self) -> Statement:
        """BEGIN."""
        return Statement(self._sql, Verb.BEGIN)

    def commit(self) -> Statement:
        """COMMIT."""
        return Statement(self._sql, Verb.COMMIT)

    def rollback(self) -> Statement:
        """ROLLBACK, or ROLLBACK TO a savepoint."""
        self._at += 1
        self._take("TRANSACTION", "WORK")
        if not self._take("TO"):
            return Statement(self._sql, Verb.ROLLBACK)
        if self._at + 1 < len(self._tokens):
            self._take("SAVEPOINT")
        return Statement(self._sql, Verb.ROLLBACK_TO, name=self._identifier("ROLLBACK"))

    def savepoint(self) -> Statement:
        """SAVEPOINT name."""
        self._at += 1
        return Statement(self._sql, Verb.SAVEPOINT, name=self._identifier("SAVEPOINT"))

    def release(self) -> Statement:
        """RELEASE name."""
        self._at += 1
        if self._word() == "SAVEPOINT" and self._at + 1 < len(self._tokens):
            self._at += 1
        return Statement(self._sql, Verb.RELEASE, name=self._identifier("RELEASE"))

    # --- clauses ---

    def _target(self) -> tuple[str | None, str]:
        name = self._identifier("target table")
        if self._symbol() != ".":
            return None, name
        self._at += 1
        return name, self._identifier("target table")

    def _clauses_of(self, words: Collection[str]) -> dict[str, int]:
        """Where the clauses that begin with one of `words` are, behind the present place."""
        found: dict[str, int] = {}
        place = self._find(self._at, words)
        while place < len(self._tokens):
            found[self._tokens[place].word] = place
            place = self._find(place + 1, words)
        return found

    def _set_columns(self, end: int) -> tuple[str, ...]:
        columns: list[str] = []
        starts = True
        while self._at < end:
            if starts and self._symbol() == "(":
                columns += self._column_list()
            elif starts:
                columns.append(self._set_column())
            starts = self._at < end and self._depths[self._at] == 0 and self._symbol() == ","
            self._at += 1
        return tuple(columns)

    def _set_column(self) -> str:
        return self._identifier("SET clause")

    def _column_list(self) -> list[str]:
        columns: list[str] = []
        while self._symbol() != ")":
            self._at += 1
            columns.append(self._identifier("SET clause"))
        self._at += 1
        return columns

    def _refuse_outer_joins(self, start: int, end: int) -> None:
        for place in range(start, end):
            if self._depths[place] == 0 and self._tokens[place].word in ("RIGHT", "FULL"):
                raise Refused("UPDATE … FROM with a RIGHT or FULL JOIN is not supported.", "Use a subquery.")

    def _fragment(self, start: int, end: int, numbers: list[int]) -> Fragment:
        """The tokens from `start` to before `end` as a piece of text; `numbers` as `_parameter_places` gives them."""
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


def parse_with(parser: type[Parser], sql: str, tokenize: Callable[[str], list[Token]]) -> Statement:
    """What `sql` is. Never raises: text that is not understood is a REFUSED statement."""
    if MARK in sql:
        return Statement(sql, Verb.REFUSED, reason="a NUL character in SQL text is not understood.")
    try:
        return parser(sql, tokenize(sql)).statement()
    except (LexicalError, Refused) as error:
        hint = error.hint if isinstance(error, Refused) else "AT changes only rows it can restore; simplify it."
        first = _FIRST_WORD.search(sql)
        if first is not None and first[0].upper() in parser.other_mode_takes:
            hint = f"{hint} {parser.other_mode}"
        return Statement(sql, Verb.REFUSED, reason=str(error), hint=hint)


def _without_end(tokens: list[Token]) -> list[Token]:
    while tokens and tokens[-1].text == ";":
        tokens = tokens[:-1]
    return tokens


def _depths(tokens: list[Token]) -> list[int]:
    """The parenthesis depth of each token; a parenthesis itself counts as outside."""
    depths: list[int] = []
    depth = 0
    for token in tokens:
        if token.kind is Kind.SYMBOL and token.text in (")", "]"):
            depth -= 1
        depths.append(depth)
        if token.kind is Kind.SYMBOL and token.text in ("(", "["):
            depth += 1
    return depths
