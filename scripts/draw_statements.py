"""Draws the table "statement × database" of docs/modes/at.md out of what the tests prove.

python scripts/draw_statements.py            # rewrites the page between its two marks

Each database has a list `CASES` in tests/client/at/<database>/statement_cases.py, of tuples `(name, setup, steps,
outcome)`:

- `name`: one of `STATEMENTS` here: the row of the table. A name may have several cases.
- `setup`: SQL to run before, past AT: a text, or a tuple of texts.
- `steps`: what is executed inside the global transaction: a text, or a list of steps, each a text, `(text, parameters)`
  or `(text, [parameters, parameters, …])` for executemany().
- `outcome`: "works" (it leaves what the bare driver leaves, and a rollback restores every row), "absent" (the database
  itself does not know it), or "refused: …" with words of the reason that the error gives.

A name that a database has no case for is an error of this script.
"""

from __future__ import annotations

import runpy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "modes" / "at.md"
BEGIN, END = "<!-- statements: drawn by scripts/draw_statements.py -->", "<!-- end of statements -->"

DATABASES = (("PostgreSQL", "postgres"), ("MySQL, MariaDB", "mysql"), ("SQLite", "sqlite"))

STATEMENTS = (
    "INSERT … VALUES",
    "INSERT of several rows",
    "INSERT of defaults only",
    "INSERT, key by the database",
    "INSERT … SELECT",
    "INSERT … RETURNING",
    "INSERT that skips duplicates",
    "INSERT by executemany()",
    "upsert",
    "upsert … SELECT",
    "upsert … RETURNING",
    "REPLACE",
    "MERGE",
    "UPDATE by key",
    "UPDATE, any WHERE",
    "UPDATE, sub-query in WHERE or SET",
    "UPDATE with joined tables",
    "UPDATE with a CTE",
    "UPDATE … ORDER BY … LIMIT",
    "UPDATE … RETURNING",
    "UPDATE by executemany()",
    "UPDATE of unique values (u = u + 1)",
    "UPDATE of several tables",
    "UPDATE of a primary key",
    "UPDATE, volatile function in SET",
    "UPDATE, volatile function in WHERE",
    "DELETE, any WHERE",
    "DELETE with joined tables",
    "DELETE with a CTE",
    "DELETE … ORDER BY … LIMIT",
    "DELETE … RETURNING",
    "DELETE of several tables",
    "SELECT … FOR UPDATE",
    "several statements in one text",
    "SAVEPOINT, ROLLBACK TO, RELEASE",
    "data-modifying CTE",
    "generated columns",
    "table without a primary key",
    "view",
    "table with a trigger",
    "rows that CASCADE takes along",
    "temporary table",
    "DDL, TRUNCATE",
    "stored procedure",
    "bulk load (COPY, LOAD DATA)",
)
"""The rows of the table, in its order."""

Case = tuple[str, str | tuple[str, ...], Any, str]


def cases(folder: str) -> Sequence[Case]:
    """The list of one database."""
    found: Sequence[Case] = runpy.run_path(str(ROOT / "tests" / "client" / "at" / folder / "statement_cases.py"))[
        "CASES"
    ]
    unknown = {case[0] for case in found} - set(STATEMENTS)
    missing = set(STATEMENTS) - {case[0] for case in found}
    if unknown or missing:
        raise SystemExit(f"{folder}: unknown names {sorted(unknown)}, names without a case {sorted(missing)}")
    return found


def cell(outcomes: Sequence[str]) -> str:
    """What the table says of all cases of a name: works, — (absent) or the reasons of refusals."""
    refused = [outcome.removeprefix("refused: ") for outcome in outcomes if outcome.startswith("refused: ")]
    if not refused:
        return "—" if set(outcomes) == {"absent"} else "✓"
    reasons = "; ".join(dict.fromkeys(refused)).replace("|", "\\|")
    return f"{'✓ but refused' if 'works' in outcomes else 'refused'}: {reasons}"


def lines() -> Iterator[str]:
    """The table."""
    found = [cases(folder) for _, folder in DATABASES]
    yield f"| statement | {' | '.join(name for name, _ in DATABASES)} |"
    yield "|---" * (1 + len(DATABASES)) + "|"
    for name in STATEMENTS:
        cells = [cell([case[3] for case in listed if case[0] == name]) for listed in found]
        yield f"| {name} | {' | '.join(cells)} |"


def drawn(page: str) -> str:
    """`page` with the table between its marks as it should be."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "\n".join([before + BEGIN, *lines(), END + after])


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text()))
