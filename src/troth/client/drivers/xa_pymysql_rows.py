"""XA on MySQL and MariaDB whose branches take AT's row locks: what writes runs with images, inside XA START and END."""

from __future__ import annotations

import re
from typing import Any

import pymysql

from troth.client.drivers.pymysql_places import MySqlExecutor, MySqlPlace
from troth.client.drivers.running import run
from troth.client.drivers.xa_pymysql import Connection, open_by
from troth.client.errors import NotSupported
from troth.client.flow import ResourceClient
from troth.client.modes.at_write import Writer
from troth.client.modes.xa_mysql import MySqlPhaseOne
from troth.client.modes.xa_row_locks import RowLocks
from troth.client.sql.dialects.mysql import MySqlDialect
from troth.client.sql.dialects.mysql_images import MySqlOutcome
from troth.client.sql.statement import Statement, Verb

_RETURNING = re.compile(r"\bRETURNING\b", re.IGNORECASE)
_PLAIN = frozenset({Verb.READ, Verb.LOCKING_READ, Verb.SAVEPOINT, Verb.RELEASE})


def connect(url: str, client: ResourceClient | None = None, **driver_options: Any) -> Connection:
    """Open the database. `driver_options` go to `pymysql.connect`. Raises as `troth.client.drivers.xa_pymysql`."""
    return open_by(RowLockingConnection, url, client, driver_options)


class RowLockingConnection(Connection):
    """As `Connection`, with row locks."""

    _xa_dialect: MySqlDialect
    _xa_locks: RowLocks

    def _xa_phase_one(self, place: MySqlPlace) -> MySqlPhaseOne:
        raw: Any = self
        found_rows = bool(raw.client_flag & pymysql.constants.CLIENT.FOUND_ROWS)
        self._xa_dialect = place.dialect(counts_found=found_rows)
        self._xa_locks = RowLocks(place.resource_id, Writer(self._xa_dialect, expects=self._xa_dialect))
        made = super()._xa_phase_one(place)
        made.before_prepare = self._xa_locks.take
        return made

    def _xa_statement(self, sql: str | bytes, text: str, unbuffered: bool) -> int:
        statement = self._xa_dialect.parse(text, parameterised=False)
        if statement.verb is Verb.REFUSED:
            raise statement.refusal()
        if statement.verb in (Verb.INSERT, Verb.UPDATE, Verb.DELETE):
            return self._xa_write(statement)
        if statement.sql.lstrip()[:3].upper() == "SET":
            self._xa_dialect.forget_session()
        if statement.verb is Verb.ROLLBACK_TO:
            self._xa_locks.forget_tables()
        elif statement.verb not in _PLAIN:
            raise NotSupported(f"{statement.verb.value} inside a branch is not understood.", "Call begin(), commit().")
        return super()._xa_statement(sql, text, unbuffered)

    def _xa_write(self, statement: Statement) -> int:
        if _RETURNING.search(statement.sql):
            raise NotSupported("RETURNING is not taken where XA locks rows.", "SELECT the row afterwards.")
        assert self.xa is not None
        assert self.xa.branch is not None
        self._xa_past += 1
        try:
            flow = self._xa_locks.write(statement, self.xa.branch)
            outcome = run(flow, MySqlExecutor(self), self.xa_served)
            return self._xa_shown(outcome.rowcount, outcome.lastrowid if isinstance(outcome, MySqlOutcome) else None)
        finally:
            self._xa_past -= 1

    def _xa_shown(self, rowcount: int, lastrowid: int | None) -> int:
        """The result that the user's cursor takes: the last one is of an image."""
        self.query("DO 0")
        raw: Any = self
        raw._affected_rows = raw._result.affected_rows = rowcount
        raw._result.insert_id = lastrowid or 0
        return rowcount
