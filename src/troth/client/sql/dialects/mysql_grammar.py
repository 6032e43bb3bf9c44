"""Which statement is it? MySQL's and MariaDB's grammar, as far as AT has to understand it; the rest is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import ClassVar

from troth.client.sql.dialects.mysql_lexer import tokenize
from troth.client.sql.dialects.mysql_pieces import Pieces, TableFactor
from troth.client.sql.dialects.mysql_statement import Insertion, MySqlStatement, Piece, Source
from troth.client.sql.grammar import Parser, Reader, Refused, not_understood, parse_with
from troth.client.sql.statement import OR_BY_XA, Statement, Verb

_ENDS = frozenset({"WHERE", "ORDER", "LIMIT", "RETURNING"})
_VOLATILE = frozenset(
    {
        "RAND",
        "UUID",
        "UUID_SHORT",
        "UUID_V4",
        "UUID_V7",
        "SYS_GUID",
        "SLEEP",
        "BENCHMARK",
        "NEXTVAL",
        "LASTVAL",
        "SETVAL",
    }
    | {"GET_LOCK", "RELEASE_LOCK", "RELEASE_ALL_LOCKS", "RANDOM_BYTES", "SYSDATE", "LAST_INSERT_ID", "ROW_COUNT"}
    | {"FOUND_ROWS", "MASTER_POS_WAIT", "MASTER_GTID_WAIT"}
)
"""Functions whose result changes from call to call, or that do something."""
_SETTABLE = frozenset(
    {"TIME_ZONE", "LOCK_WAIT_TIMEOUT", "INNODB_LOCK_WAIT_TIMEOUT", "WAIT_TIMEOUT", "MAX_STATEMENT_TIME"}
    | {"MAX_EXECUTION_TIME", "NET_READ_TIMEOUT", "NET_WRITE_TIMEOUT", "SORT_BUFFER_SIZE", "JOIN_BUFFER_SIZE"}
)
_LOCKING = (("FOR", "UPDATE"), ("FOR", "SHARE"), ("LOCK", "IN"))
_FOLDING = frozenset({"DISTINCT", "DISTINCTROW", "GROUP", "HAVING", "COUNT", "SUM", "MIN", "MAX", "AVG"})
_BEHIND_WHERE = frozenset({"GROUP", "HAVING", "WINDOW", "ORDER", "LIMIT", "INTO", "PROCEDURE"})
_ONE_TABLE = "Lock the rows of one table by a statement of its own."
_OUTSIDE = "Run it outside of the global transaction."


def parse(sql: str, *, parameterised: bool) -> Statement:
    """What `sql` is. Never raises: text that is not understood is a REFUSED statement."""
    parser = _Parameterised if parameterised else _Literal
    return parse_with(parser, sql, partial(tokenize, parameterised=parameterised))


def _keeps(name: str, assignments: str) -> bool:
    """Whether a column is set to itself by LAST_INSERT_ID(), which only tells what it is."""
    quoted = f"`?{re.escape(name)}`?"
    return bool(re.search(rf"{quoted}\s*=\s*LAST_INSERT_ID\s*\(\s*{quoted}\s*\)", assignments, re.IGNORECASE))


class _MySqlParser(Pieces):
    with_verbs = frozenset({"SELECT", "UPDATE", "DELETE"})
    other_mode = OR_BY_XA
    other_mode_takes = frozenset({"SELECT", "INSERT", "REPLACE", "UPDATE", "DELETE", "WITH", "CALL", "DO"})

    def statement(self) -> Statement:
        if self._tokens and self._tokens[0].text == "(":
            return Statement(self._sql, Verb.READ)  # (SELECT …) UNION …
        return super().statement()

    # --- SELECT ---

    def select(self) -> Statement:
        """A SELECT; one that locks its rows (FOR UPDATE, FOR SHARE, LOCK IN SHARE MODE) is more than a read."""
        for place in range(self._at, len(self._tokens) - 1):
            words = (self._tokens[place].word, self._tokens[place + 1].word)
            if self._depths[place] == 0 and words in _LOCKING:
                return self._locking_read(place)
        return self.read()

    def _locking_read(self, locking: int) -> Statement:
        source = self._find(self._at, {"FROM"})
        if source > locking or self._find(self._at, {"UNION", "INTERSECT", "EXCEPT"}) < len(self._tokens):
            raise Refused("this SELECT … FOR UPDATE is not understood.", _ONE_TABLE)
        folds = min(self._find(self._at, _FOLDING), locking) < locking
        ends = [min(self._find(source, words), locking) for words in ({"WHERE"}, _BEHIND_WHERE, {"ORDER", "LIMIT"})]
        end = min(ends)
        factors = self._factors(source + 1, end)
        if len(factors) > 1 or not factors[0].table:
            raise Refused("SELECT … FOR UPDATE over more than one table is not understood.", _ONE_TABLE)
        where, behind, tail = ends
        return MySqlStatement(
            self._sql,
            Verb.LOCKING_READ,
            factors[0].schema,
            factors[0].table,
            returns=True,
            end=self._end,
            with_clause=self._piece(*self._with_range),
            head=self._piece(0, len(self._tokens)),
            sources=self._piece(source + 1, end),
            target=factors[0].alias,
            where=self._piece(where + 1, min(behind, tail)),
            # What is folded into one row, or counted, is looked at wholly.
            tail=Piece() if folds else self._piece(tail, min(self._find(tail, {"INTO"}), locking)),
            output=self._piece(locking, len(self._tokens)),
            places=self._all_places(),
        )

    # --- INSERT ---

    def insert(self) -> Statement:
        """INSERT or REPLACE."""
        replaces = self._word() == "REPLACE"
        self._at += 1
        if self._word() == "DELAYED":
            raise Refused("what is DELAYED happens outside of the local transaction.", "Leave DELAYED out.")
        self._take("LOW_PRIORITY", "HIGH_PRIORITY")
        ignores = self._take("IGNORE")
        self._take("INTO")
        schema, table = self._target()
        if self._word() == "PARTITION":
            raise not_understood("INSERT … PARTITION")
        columns = self._insert_columns()
        returning = self._find(self._at, {"RETURNING"})
        insertion = self._insertion(columns, returning, ignores=ignores)
        total = len(self._tokens)
        return MySqlStatement(
            self._sql,
            Verb.INSERT,
            schema,
            table,
            returns=returning < total,
            end=self._end,
            head=self._piece(0, returning),
            target=table,
            output=self._piece(returning + 1, total),
            insertion=insertion,
            replaces=replaces,
            places=self._all_places(),
        )

    def _insert_columns(self) -> tuple[str, ...] | None:
        if self._symbol() != "(" or self._word(1) in ("SELECT", "WITH", "VALUES"):
            return None
        if self._at + 1 < len(self._tokens) and self._tokens[self._at + 1].text == ")":
            self._at += 2
            return ()
        return tuple(self._column_list())

    def _insertion(self, columns: tuple[str, ...] | None, end: int, *, ignores: bool) -> Insertion:
        upsert, upsert_columns = self._upsert(end)
        if self._take("VALUES", "VALUE"):
            start = self._at
            rows = self._rows(min(upsert, end))
            tail = self._piece(self._at, end)
            pieces = tuple(self._piece(*row) for row in rows)
            values = tuple(tuple(self._piece(*value) for value in self._values(*row)) for row in rows)
            head = self._piece(0, start)
            return Insertion(Source.VALUES, columns, head, pieces, values, tail, ignores, upsert_columns)
        if self._take("SET"):
            names, row = self._set_values(min(upsert, end))
            head = self._piece(0, end)
            return Insertion(Source.SET, names, head, (), (row,), Piece(), ignores, upsert_columns)
        self._check_stable(self._at, end)
        head = self._piece(0, end)
        return Insertion(Source.QUERY, columns, head, ignores=ignores, upsert_columns=upsert_columns)

    def _upsert(self, end: int) -> tuple[int, tuple[str, ...]]:
        """Where ON DUPLICATE KEY UPDATE begins, and what it sets."""
        place = next(
            (
                here
                for here in range(self._at, end - 1)
                if self._depths[here] == 0
                and self._tokens[here].word == "ON"
                and self._tokens[here + 1].word == "DUPLICATE"
            ),
            end,
        )
        if place == end:
            return end, ()
        back, self._at = self._at, place + 4
        text = self._piece(self._at, end).text
        columns = [name for name in self._set_columns(end) if not _keeps(name, text)]
        self._at = back
        return place, tuple(columns)

    # --- UPDATE, DELETE ---

    def update(self) -> Statement:
        self._at += 1
        self._take("LOW_PRIORITY")
        self._take("IGNORE")
        sources = self._at
        set_place = self._find(self._at, {"SET"})
        factors = self._factors(sources, set_place)
        self._at = set_place + 1
        ends = self._clauses_of(_ENDS)
        assigned = self._assignments(min(ends.values(), default=len(self._tokens)))
        written = self._written(factors, [qualifier for qualifier, _ in assigned])
        alone = len(written) == 1
        targets = [
            (factor, tuple(name for qualifier, name in assigned if alone or qualifier.lower() == alias))
            for alias, factor in written.items()
        ]
        return self._modification(Verb.UPDATE, targets, len(factors) > 1, (sources, set_place), ends)

    def delete(self) -> Statement:
        self._at += 1
        while self._take("LOW_PRIORITY", "QUICK", "IGNORE"):
            pass
        names = []
        if not self._take("FROM"):
            names = self._delete_targets("FROM")
            self._at += 1
        elif self._find(self._at, {"USING"}) < self._find(self._at, _ENDS):
            names = self._delete_targets("USING")
            self._at += 1
        sources = self._at
        ends = self._clauses_of(_ENDS)
        end = min(ends.values(), default=len(self._tokens))
        factors = self._factors(sources, end)
        if not names and len(factors) > 1:
            raise not_understood("DELETE")
        targets = [(factor, ()) for factor in self._written(factors, names).values()]
        return self._modification(Verb.DELETE, targets, len(factors) > 1, (sources, end), ends)

    def _modification(
        self,
        verb: Verb,
        targets: Sequence[tuple[TableFactor, tuple[str, ...]]],
        joins: bool,
        sources: tuple[int, int],
        ends: dict[str, int],
    ) -> Statement:
        """`targets` are the tables that are written to, with the columns that are set."""
        total = len(self._tokens)
        returning = ends.get("RETURNING", total)
        tail = min(ends.get("ORDER", returning), ends.get("LIMIT", returning))
        where = ends.get("WHERE", tail)
        if joins and tail < returning:
            raise Refused("ORDER BY and LIMIT over several tables are not understood.", "Use a subquery.")
        self._check_stable(*sources)
        self._check_stable(where, total)
        (factor, columns), *others = targets
        statement = MySqlStatement(
            self._sql,
            verb,
            factor.schema,
            factor.table,
            set_columns=columns,
            returns=returning < total,
            end=self._end,
            with_clause=self._piece(*self._with_range),
            head=self._piece(0, where),
            sources=self._piece(*sources),
            target=factor.alias,
            where=self._piece(where + 1, tail),
            tail=self._piece(tail, returning),
            output=self._piece(returning + 1, total),
            places=self._all_places(),
        )
        more = (
            replace(statement, schema=other.schema, table=other.table, target=other.alias, set_columns=names)
            for other, names in others
        )
        return replace(statement, more=tuple(more)) if others else statement

    def _check_stable(self, start: int, end: int) -> None:
        """What chooses rows must choose the same ones twice."""
        for place in range(start, end):
            word, following = self._tokens[place].word, self._tokens[place + 1 : place + 2]
            if word in _VOLATILE and following and following[0].text == "(":
                raise Refused(
                    f"{word}() chooses rows, and gives another result at each call.",
                    "Compute the value first, and give it as a parameter.",
                )
            if word in ("NEXT", "PREVIOUS") and following and following[0].word == "VALUE":
                raise Refused("a sequence chooses rows.", "Compute the value first, and give it as a parameter.")

    # --- the rest ---

    def start(self) -> Statement:
        if self._word(1) != "TRANSACTION":
            raise not_understood("statement")
        return self.begin()

    def end_of_transaction(self) -> Statement:
        if any(token.word in ("CHAIN", "RELEASE") for token in self._tokens):
            raise Refused(f"{self._word()} … AND CHAIN (or RELEASE) is not understood.", f"Use {self._word()}.")
        return self.rollback() if self._word() == "ROLLBACK" else self.commit()

    def set_(self) -> Statement:
        """SET of a user variable, or of a variable of the session that AT does not depend on."""
        self._at += 1
        if self._word() in ("SESSION", "LOCAL") and self._word(1) == "TRANSACTION":
            return Statement(self._sql, Verb.READ)  # of the transactions after this one
        if self._word() == "NAMES" and self._tokens[-1].text.strip("'\"").lower() == "utf8mb4":
            return Statement(self._sql, Verb.READ)
        for place in self._assigned_places():
            name = self._variable(place)
            if name is not None and name.upper() not in _SETTABLE:
                raise Refused(f"SET {name} may change what statements mean or when they commit.", _OUTSIDE)
        return Statement(self._sql, Verb.READ)

    def _variable(self, place: int) -> str | None:
        """The variable of the session that an assignment at `place` sets; None for the user's own (`@name`)."""
        texts = [token.text for token in self._tokens[place : place + 6]]
        if texts[:2] == ["@", "@"]:
            texts = texts[2:]
        elif texts[:1] == ["@"]:
            return None
        if texts[:1] and texts[0].upper() in ("SESSION", "LOCAL"):
            texts = texts[1:]
        return next((text for text in texts if text != "."), "")

    def schema_change(self) -> Statement:
        raise Refused(f"{self._word()} commits by itself, and AT cannot undo it.", _OUTSIDE)

    def unseen(self) -> Statement:
        raise Refused(f"{self._word()} may write rows that AT does not see.", "Write the statements out.")

    readers: ClassVar[Mapping[str, Reader]] = MappingProxyType(
        {
            "SELECT": select,
            **dict.fromkeys(("VALUES", "TABLE", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "HELP"), Parser.read),
            "WITH": Parser.with_,
            "INSERT": insert,
            "REPLACE": insert,
            "UPDATE": update,
            "DELETE": delete,
            "BEGIN": Parser.begin,
            "START": start,
            **dict.fromkeys(("COMMIT", "ROLLBACK"), end_of_transaction),
            "SAVEPOINT": Parser.savepoint,
            "RELEASE": Parser.release,
            "SET": set_,
            **dict.fromkeys(("CALL", "EXECUTE", "DO", "LOAD", "HANDLER", "ANALYZE", "IMPORT"), unseen),
            **dict.fromkeys(("CREATE", "DROP", "ALTER", "RENAME", "TRUNCATE", "LOCK", "UNLOCK", "XA"), schema_change),
            **dict.fromkeys(("OPTIMIZE", "REPAIR", "USE", "GRANT", "REVOKE", "FLUSH", "RESET"), schema_change),
            **dict.fromkeys(("INSTALL", "UNINSTALL", "CHANGE", "STOP", "PREPARE", "DEALLOCATE"), schema_change),
        }
    )


class _Parameterised(_MySqlParser):
    parameterised = True


class _Literal(_MySqlParser):
    parameterised = False
