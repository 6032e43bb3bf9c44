"""What the sync and the asyncio connection to PostgreSQL share: which flow a call becomes, and its result as psycopg's.

Calls that AT has no business with go to psycopg untouched: outside of a global transaction all of them, inside reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import psycopg
from psycopg import pq, sql

from troth.client.context import reads_committed, work_xid
from troth.client.drivers.psycopg_batch import Queue
from troth.client.drivers.psycopg_place import PostgresResource, PostgresUrl
from troth.client.drivers.served import Database, ServedDatabase, lock_retry
from troth.client.errors import NotSupported
from troth.client.flow import Flow, Parameters, ResourceClient
from troth.client.modes.additive import additions_of
from troth.client.modes.at import LockRetry, PhaseOne, Settle, Situation
from troth.client.modes.at_write import Writer
from troth.client.sql.additive import Floor
from troth.client.sql.checked_reads import checked_read, only_set
from troth.client.sql.dialects.postgres import PostgresDialect
from troth.client.sql.image import Outcome
from troth.client.sql.statement import Statement, Verb
from troth.wire.seata.enums import BranchType

_MOVES_NAMES = re.compile(r"^\W*(?:RE)?SET\b|set_config", re.IGNORECASE)
"""Statements that may change the search path, or the role that is part of it."""
_IDLE = pq.TransactionStatus.IDLE


class AtWork(ServedDatabase):
    """AT on one connection: `plan` says what a statement becomes; a shell runs the flow."""

    def __init__(
        self,
        url: PostgresUrl,
        info: psycopg.ConnectionInfo,
        client: ResourceClient | None,
        settle_by: Callable[[Callable[[str, int], bool]], Settle],
        additive: Mapping[str, Floor] | None = None,
    ) -> None:
        resource = PostgresResource(url)
        super().__init__(Database(url.resource_id(info), BranchType.AT, resource), client)
        self._info = info
        self._dialect = PostgresDialect(url.undo_schema, server_version=getattr(info, "server_version", 0))
        self.queue = Queue()
        self.phase_one = PhaseOne(
            self._dialect,
            self.resource_id,
            Writer(self._dialect, expects=self._dialect, additions=additions_of(self._dialect, additive)),
            LockRetry(),
            settle_by(resource.settle),
        )
        self.abandoned = False

    # --- where things stand ---

    @property
    def concerns(self) -> bool:
        """Whether AT has to look at a statement now."""
        return work_xid() is not None or self.phase_one.local is not None

    @property
    def is_idle(self) -> bool:
        """Whether AT has nothing to do with what comes now, and nothing to put right before it."""
        return work_xid() is None and self.phase_one.local is None and not self.abandoned

    @property
    def in_transaction(self) -> bool:
        """Whether the server has a local transaction open."""
        return self._info.transaction_status is not _IDLE

    def situation(self, *, autocommit: bool) -> Situation:
        """How things stand now."""
        return Situation(work_xid(), self.in_transaction, not autocommit)

    def refuse_inside(
        self, what: str, hint: str = "Use execute(), or do it outside of the global transaction."
    ) -> None:
        """Raises NotSupported inside a global transaction, or where a local one still belongs to one."""
        if self.concerns:
            raise NotSupported(f"{what} would write past AT.", hint)

    # --- statements ---

    def parse(self, query: Any, context: Any, *, parameterised: bool) -> Statement:
        """What the user's query (text, bytes, or of `psycopg.sql`) is."""
        match query:
            case str():
                text = query
            case bytes():
                text = query.decode(self._info.encoding)
            case sql.Composable():
                text = query.as_string(context)
            case _:
                raise NotSupported(f"a query that is a {type(query).__name__} is not understood.", "Use a text.")
        statement = self._dialect.parse(text, parameterised=parameterised)
        if not reads_committed():
            return statement
        parse = self._dialect.parse
        return checked_read(statement, lambda sql: parse(f"{sql}\nFOR SHARE", parameterised=parameterised))

    def check_calls(self, statement: Statement) -> Flow[None] | None:
        """What has to be asked (and may be refused) before the statement is planned, if it calls functions."""
        return self._dialect.check_calls(statement)

    def reads(self, query: Any, context: Any, *, parameterised: bool) -> bool:
        """Whether the query only reads, and locks nothing. Raises NotSupported for functions that are not known yet."""
        return self.only_reads(self.parse(query, context, parameterised=parameterised))

    def only_reads(self, statement: Statement) -> bool:
        """`reads`, of a statement that is parsed already."""
        if self._dialect.check_calls(statement) is not None:
            raise NotSupported(
                f"whether the functions {', '.join(sorted(statement.calls))} only read is not known here.",
                "Use execute() of a client-side cursor (at least the first time).",
            )
        return statement.verb is Verb.READ

    def plan(self, statement: Statement, sets: Iterable[Any], now: Situation) -> Flow[Outcome] | None:
        """The flow that executes the statement for each of `sets`; None: psycopg executes it by itself."""
        self.phase_one.notice(in_transaction=now.in_transaction)
        match statement.verb:
            case Verb.READ:
                if _MOVES_NAMES.search(statement.sql):
                    self.phase_one.forget_tables()
                return None
            case Verb.REFUSED:
                raise statement.refusal()
            case Verb.INSERT | Verb.UPDATE | Verb.DELETE:
                self.register()
                given: list[Parameters] = [() if parameters is None else parameters for parameters in sets]
                return self.phase_one.write(now, statement, given)
            case Verb.LOCKING_READ:
                self.register()
                return self.phase_one.read_locked(now, statement, only_set(sets) or ())
            case Verb.COMMIT if self.phase_one.local is not None:
                return _silent(self.phase_one.commit(now.xid))
            case Verb.ROLLBACK if self.phase_one.local is not None:
                return _silent(self.phase_one.roll_back())
            case Verb.COMMIT | Verb.ROLLBACK:
                return None
            case _:
                return _silent(self.phase_one.control(now, statement))

    # --- the end of a global transaction (`troth.client.context.LocalWork`) ---

    def unfinished(self, xid: str) -> str | None:
        """What is changed and not committed, in words."""
        local = self.phase_one.local
        if local is None or local.xid != xid or not local.changes:
            return None
        return f"its local transaction on {self.resource_id} was not committed"

    def abandon(self, xid: str) -> bool:
        """Note that what is open for `xid` can never be committed; whether there is such a thing."""
        local = self.phase_one.local
        if local is not None and local.xid == xid:
            self.abandoned = True
        return self.abandoned

    def forget(self) -> None:
        """The local transaction is over."""
        self.phase_one.local = None
        self.queue.clear()
        self.abandoned = False

    # --- the coordinator ---

    def _learn_from(self, client: ResourceClient) -> None:
        self.phase_one.retry = lock_retry(client)


def _silent(flow: Flow[None]) -> Flow[Outcome]:
    yield from flow
    return Outcome(-1)


class Block:
    """`with conn.transaction()`: a local transaction, or a savepoint in it. The shells run the flows that it gives."""

    def __init__(self, work: AtWork, name: str | None, depth: int, *, autocommit: bool) -> None:
        self._work = work
        self._autocommit = autocommit
        self.outer = not work.in_transaction and depth == 0
        self.name = name or (None if self.outer else f"_troth_{depth + 1}")

    def enter(self) -> Flow[None]:
        """BEGIN, SAVEPOINT, or both."""
        phase_one = self._work.phase_one
        if self.outer:
            yield from phase_one.control(self._now(), Statement("BEGIN", Verb.BEGIN))
        if self.name is not None:
            yield from phase_one.control(self._now(), self._statement(Verb.SAVEPOINT))

    def leave(self, *, keep: bool) -> Flow[None]:
        """COMMIT or RELEASE; else ROLLBACK, or ROLLBACK TO and RELEASE."""
        phase_one = self._work.phase_one
        if self.outer:
            yield from phase_one.commit(work_xid()) if keep else phase_one.roll_back()
            return
        if not keep:
            yield from phase_one.control(self._now(), self._statement(Verb.ROLLBACK_TO))
        yield from phase_one.control(self._now(), self._statement(Verb.RELEASE))

    def _now(self) -> Situation:
        return self._work.situation(autocommit=self._autocommit)

    def _statement(self, verb: Verb) -> Statement:
        name = (self.name or "").replace('"', '""').replace("%", "%%")
        return Statement(f'{verb.value} "{name}"', verb, name=self.name or "")


def swallows(error: BaseException | None, block: object) -> bool:
    """Whether leaving `block` by `error` is no error: `psycopg.Rollback` means this block, or the innermost one."""
    return isinstance(error, psycopg.Rollback) and error.transaction in (None, block)
