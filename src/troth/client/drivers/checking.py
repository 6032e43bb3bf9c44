"""Which statements of a file AT can take, before any of them is run (`troth at check --sql`).

Without a database the text alone is judged; with one, its tables too (keys, triggers, foreign keys …). Nothing is
written: the definitions are read in a local transaction that is rolled back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType

from troth.client.drivers.resource import NoCoordinator
from troth.client.drivers.running import Executor, run
from troth.client.errors import NotSupported
from troth.client.flow import Flow, query
from troth.client.modes.at_write import LocalTransaction, Writer
from troth.client.sql.dialects.base import Dialect, Fault
from troth.client.sql.dialects.mysql import MySqlDialect
from troth.client.sql.dialects.mysql_privileges import hidden_triggers
from troth.client.sql.dialects.postgres import PostgresDialect
from troth.client.sql.dialects.sqlite import SqliteDialect
from troth.client.sql.script import Part, statements
from troth.client.sql.statement import Statement, Verb

_TIMEOUT_S = 5.0
DIALECTS = ("postgresql", "mysql", "sqlite")
_NAMES: Mapping[str, str] = MappingProxyType({"postgres": "postgresql", "mariadb": "mysql"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What AT makes of one statement inside a global transaction. `reason` and `hint` say why it is refused."""

    line: int
    sql: str
    kind: str
    accepted: bool
    reason: str = ""
    hint: str = ""


def dialect_of(name: str) -> str:
    """The dialect that a name or the scheme of a URL means. Raises ValueError."""
    plain = name.partition("+")[0].lower()
    known = _NAMES.get(plain, plain)
    if known not in DIALECTS:
        raise ValueError(f"{name!r} is not a dialect: {', '.join(DIALECTS)}")
    return known


def check_text(text: str, dialect: str) -> Iterator[Verdict]:
    """Judge each statement of `text` by itself. Raises ValueError for a dialect that is not known."""
    name = dialect_of(dialect)
    judge = _dialect(name)
    for part in statements(text, name):
        yield _by_text(judge, part)[1]


def check_rights(url: str) -> list[str]:
    """What AT may not see there with this user's rights, in sentences. Raises ValueError, and the driver's errors."""
    name = dialect_of(url.partition("://")[0])
    if name != "mysql":  # there is nothing like it elsewhere
        return []
    with opened_database(name, url) as (executor, _):
        return run(hidden_triggers(), executor, NoCoordinator())


def check_on_database(text: str, url: str) -> Iterator[Verdict]:
    """Judge each statement of `text` with the tables of the database at `url`. Raises the driver's errors."""
    name = dialect_of(url.partition("://")[0])
    with opened_database(name, url) as (executor, dialect):
        writer = Writer(dialect)
        for part in statements(text, name):
            statement, verdict = _by_text(dialect, part)
            if not verdict.accepted or not (statement.verb.writes or statement.verb is Verb.LOCKING_READ):
                yield verdict
                continue
            try:
                run(_by_table(dialect, writer, statement), executor, NoCoordinator())
            except NotSupported as refusal:
                refusal.add_hint(dialect.other_mode)
                verdict = _refused(part, statement, refusal.reason, refusal.hint or "")
            except Exception as error:
                if dialect.fault(error) is Fault.LOST:
                    raise
                # The database itself refuses: there is no such table, say.
                verdict = _refused(part, statement, f"the database says: {str(error).partition(chr(10))[0]}", "")
            yield verdict


def _by_text(dialect: Dialect, part: Part) -> tuple[Statement, Verdict]:
    # A placeholder may stand in the file, in the driver's spelling; without one the text is as it stands.
    plain = dialect.parse(part.sql, parameterised=False)
    statement = plain if plain.verb is not Verb.REFUSED else dialect.parse(part.sql, parameterised=True)
    if statement.verb is Verb.REFUSED:
        if part.head != part.sql:  # a routine: its body is not for AT to judge
            plain = dialect.parse(part.head, parameterised=False)
        return statement, Verdict(part.line, part.sql, statement.verb.value, False, plain.reason, plain.hint)
    return statement, Verdict(part.line, part.sql, statement.verb.value, True)


def _refused(part: Part, statement: Statement, reason: str, hint: str) -> Verdict:
    return Verdict(part.line, part.sql, statement.verb.value, False, reason, hint)


def _by_table(dialect: Dialect, writer: Writer, statement: Statement) -> Flow[None]:
    """Raises NotSupported as the writer does before it runs the statement."""
    yield from query(dialect.begin)
    try:
        local = LocalTransaction("check")
        yield from writer._open(local)
        yield from writer._target(statement, local)
        yield from writer._with_tables(statement, local)
    finally:
        yield from query("ROLLBACK")


@contextmanager
def opened_database(name: str, url: str) -> Iterator[tuple[Executor, Dialect]]:
    """A connection of our own to the database, and its dialect. The driver is imported now."""
    match name:
        case "postgresql":
            place = import_module("troth.client.drivers.psycopg_place")
            parsed = place.parse_url(url)
            with place.opened(parsed) as executor:
                yield executor, PostgresDialect(parsed.undo_schema)
        case "mysql":
            place = import_module("troth.client.drivers.pymysql_places")
            parsed = place.parse_url(url)
            with place.opened(parsed.arguments({})) as executor:
                yield executor, parsed.dialect()
        case _:
            place = import_module("troth.client.drivers.sqlite")
            with place.opened(place.parse_url(url).path, _TIMEOUT_S) as executor:
                yield executor, SqliteDialect()


def _dialect(name: str) -> Dialect:
    match name:
        case "postgresql":
            return PostgresDialect()
        case "mysql":
            return MySqlDialect("")
        case _:
            return SqliteDialect()
