"""A PyMySQL connection under XA: statements inside a global transaction run between XA START and XA PREPARE.

MariaDB keeps a prepared branch with its connection, so that is opened anew after each XA PREPARE: session variables,
temporary tables and user locks are lost. (MySQL 8.0.29 and later let go of it, if `xa_detach_on_prepare` is on.)
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

try:
    import pymysql
except ImportError as error:
    raise ImportError("XA on MySQL and MariaDB needs PyMySQL: pip install 'troth[mysql]'") from error

from troth.client.context import current_xid, watch
from troth.client.drivers.pymysql_places import MySqlExecutor, MySqlPlace, arguments_like, opened, parse_url
from troth.client.drivers.running import run
from troth.client.drivers.xa_resource import XaResource, XaServed
from troth.client.errors import NotSupported
from troth.client.flow import Flow, Query, ResourceClient
from troth.client.modes.xa import end_on_mysql, quoted
from troth.client.modes.xa_mysql import MySqlPhaseOne, detaches_on_prepare

_ENDS = frozenset({"COMMIT", "ROLLBACK", "BEGIN", "START TRANSACTION"})


def connect(url: str, client: ResourceClient | None = None, **driver_options: Any) -> Connection:
    """Open the database under XA. `url` as for AT; `driver_options` go to `pymysql.connect`.

    Raises:
        NotSupported: the server loses prepared branches with their connection.
    """
    return open_by(Connection, url, client, driver_options)


def open_by(
    kind: type[Connection], url: str, client: ResourceClient | None, driver_options: Mapping[str, Any]
) -> Connection:
    """`connect` for a kind of connection."""
    place = parse_url(url)
    connection = kind(**place.arguments(driver_options))
    try:
        connection.xa_open(place, driver_options, client)
    except BaseException:
        connection.close()
        raise
    return connection


def _new_guard() -> str:
    return f"troth-xa-{secrets.token_hex(16)}"


_Base: Any = pymysql.connections.Connection
"""Its type stubs know less than it has."""


class Connection(_Base):  # type: ignore[misc]
    """`pymysql.connections.Connection` under XA. Made by `connect`."""

    xa: MySqlPhaseOne | None = None
    xa_served: XaServed

    def xa_open(self, place: MySqlPlace, given: Mapping[str, Any], client: ResourceClient | None) -> None:
        """Begin to work under XA: see what the server can do, and register."""
        self._xa_lock = threading.RLock()
        self._xa_past = 0
        variables = dict(self._xa_rows("SHOW VARIABLES LIKE 'xa\\_%'"))
        self._xa_detaches = detaches_on_prepare(str(self.get_server_info()), variables)
        arguments = arguments_like(place, given, self)
        resource = XaResource(lambda: opened(arguments), end_on_mysql)
        self.xa_served = XaServed(place.resource_id, resource, client)
        self.xa = self._xa_phase_one(place)
        self.xa_served.announce()

    def _xa_phase_one(self, place: MySqlPlace) -> MySqlPhaseOne:
        return MySqlPhaseOne(place.resource_id, _new_guard, self._xa_detach)

    def _xa_rows(self, sql: str) -> list[tuple[str, str]]:
        with pymysql.cursors.Cursor(self) as cursor:
            cursor.execute(sql)
            return [(str(row[0]), str(row[1])) for row in cursor.fetchall()]

    @property
    def resource_id(self) -> str:
        """The name of this database at the coordinator."""
        return self.xa_served.resource_id

    # --- XA ---

    @contextmanager
    def _xa_turn(self) -> Iterator[MySqlPhaseOne | None]:
        """XA, if it has to look at a call now; what belongs to an ended global transaction is rolled back first."""
        xa = self.xa
        if xa is None:
            yield None
            return
        with self._xa_lock:
            if self._xa_past:
                yield None
                return
            if not self.open:
                xa.lost()
            if xa.abandoned:
                self._xa_run(xa.roll_back)
            yield xa if current_xid() is not None or xa.branch is not None else None

    def _xa_run(self, flow: Callable[..., Flow[None]], *arguments: Any) -> None:
        self._xa_past += 1
        try:
            run(flow(*arguments), MySqlExecutor(self), self.xa_served)
        finally:
            self._xa_past -= 1

    def _xa_detach(self, guard: str) -> None:
        if self._xa_detaches:
            MySqlExecutor(self).query(Query(f"DO RELEASE_LOCK({quoted(guard)})"))
        else:
            self.close()
            self.connect()

    def _xa_enter(self, xa: MySqlPhaseOne) -> None:
        self.xa_served.register()
        self._xa_run(xa.enter, current_xid())
        watch(self)

    # --- statements ---

    def query(self, sql: str | bytes, unbuffered: bool = False) -> int:
        """`pymysql.connections.Connection.query`: all that cursors execute comes by here."""
        with self._xa_turn() as xa:
            if xa is None:
                return int(super().query(sql, unbuffered))
            text = sql.decode("utf-8", "replace") if isinstance(sql, bytes | bytearray) else sql
            word = " ".join(text.split()).rstrip("; ").upper()
            if word in _ENDS:
                {"COMMIT": self.commit, "ROLLBACK": self.rollback}.get(word, self.begin)()
                return int(super().query("DO 0", unbuffered))  # the cursor wants a result
            alone = xa.branch is None and self.get_autocommit()
            if alone and unbuffered:
                raise NotSupported("an unbuffered cursor needs a local transaction.", "Call begin() first.")
            self._xa_enter(xa)
            xa.note(text)
            try:
                done = self._xa_statement(sql, text, unbuffered)
            except BaseException:
                if alone and self.open:
                    self._xa_run(xa.roll_back)
                raise
            return self._xa_commit_alone(xa, done) if alone else done

    def _xa_statement(self, sql: str | bytes, text: str, unbuffered: bool) -> int:
        """Run the user's statement inside the branch."""
        return int(super().query(sql, unbuffered))

    def _xa_commit_alone(self, xa: MySqlPhaseOne, done: int) -> int:
        """The statement's own result must outlive the commit."""
        raw: Any = self
        kept = raw._result, raw._affected_rows
        self._xa_run(xa.commit, current_xid())
        raw._result, raw._affected_rows = kept
        return done

    # --- the local transaction ---

    def begin(self) -> None:
        """Begin a local transaction; inside a global one, a branch."""
        with self._xa_turn() as xa:
            if xa is None:
                super().begin()
            else:
                self._xa_enter(xa)

    def commit(self) -> None:
        """Commit the local transaction; inside a global one that prepares it (see `MySqlPhaseOne.commit`)."""
        with self._xa_turn() as xa:
            if xa is None or xa.branch is None:
                super().commit()
            else:
                self._xa_run(xa.commit, current_xid())

    def rollback(self) -> None:
        """Roll the local transaction back; the global one may still commit."""
        with self._xa_turn() as xa:
            if xa is None or xa.branch is None:
                super().rollback()
            else:
                self._xa_run(xa.roll_back)

    def close(self) -> None:
        """Close the connection; an open branch is rolled back."""
        with self._xa_turn() as xa:
            try:
                if xa is not None and xa.branch is not None:
                    self._xa_run(xa.roll_back)
            finally:
                super().close()

    def select_db(self, db: str) -> None:
        """Use another database, outside of a global transaction only. (XA works on the one of the URL.)"""
        with self._xa_turn() as xa:
            if xa is not None:
                raise NotSupported("select_db would go past XA.", "Do it outside of the global transaction.")
            super().select_db(db)

    # --- the end of a global transaction (`troth.client.context.LocalWork`) ---

    def unfinished(self, xid: str) -> str | None:
        """See `troth.client.context.LocalWork`."""
        return None if self.xa is None or not self.open else self.xa.unfinished(xid)

    def abandon(self, xid: str) -> None:
        """See `troth.client.context.LocalWork`."""
        if self.xa is None or self.xa.branch is None or self.xa.branch.xid != xid:
            return
        self.xa.abandoned = True
        if not self._xa_lock.acquire(blocking=False):
            return  # a statement runs in another thread; the next call rolls back
        try:
            with self._xa_turn():
                pass  # which has rolled it back
        except Exception:  # noqa: BLE001 - raises nothing: without its connection the branch is gone
            self._force_close()
            self.xa.lost()
        finally:
            self._xa_lock.release()
