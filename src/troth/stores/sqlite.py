"""The embedded store: one SQLite file, one thread that owns it, one transaction a batch.

The connection lives in a thread of its own, so the event loop never waits for a disk, and calls are answered in the
order in which they were made. The file belongs to this process alone until `close()` or death.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from troth.core.model import Outcome, Phase
from troth.stores import sqlite_reading, sqlite_statements
from troth.stores.cursors import check_limit, decode_cursor
from troth.stores.folding import fold
from troth.stores.migrations import Migration, load_migrations
from troth.stores.sqlite_file import Connect, SqliteFile, connect, explain, sentences
from troth.stores.store import Batch, EndedPage, Hot, StoreCorrupt, StoreError

T = TypeVar("T")


class SqliteStore:
    """A durable store in the file `path`, whose directory must exist.

    A batch that is refused for what it says leaves the store as it was. Once a write has failed for any other
    reason, what the disk holds is in doubt: every later call raises, until the store is closed and opened again.
    """

    def __init__(self, path: str, *, migrations: Sequence[Migration] | None = None, connect: Connect = connect) -> None:
        """Nothing is touched before `open()`. `migrations` and `connect` are for those who test the store."""
        self._path = path
        self._migrations = load_migrations("sqlite") if migrations is None else migrations
        self._connect = connect
        self._thread: ThreadPoolExecutor | None = None
        self._file: SqliteFile | None = None
        self._failure: StoreError | None = None
        self._pid = os.getpid()

    @property
    def url(self) -> str:
        return f"sqlite:///{self._path}"

    @property
    def durable(self) -> bool:
        return True

    async def open(self) -> None:
        if self._thread is not None:
            self._check_process()
            raise StoreError(f"{self._path} is open already")
        self._pid = os.getpid()
        self._failure = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="troth-store")
        try:
            await self._run(self._open)
        except BaseException:
            await self.close()
            raise

    async def load_hot(self) -> Hot:
        return await self._run(self._read(sqlite_reading.read_hot))

    async def append(self, batch: Batch) -> None:
        await self._run(lambda: self._append(batch))

    async def outcome(self, xid: str) -> Outcome | None:
        return await self._run(self._read(lambda connection: sqlite_reading.read_outcome(connection, xid)))

    async def find_ended(self, phase: Phase | None, limit: int, cursor: str | None) -> EndedPage:
        check_limit(limit)
        position = None if cursor is None else decode_cursor(cursor)
        return await self._run(
            self._read(lambda connection: sqlite_reading.read_ended(connection, phase, limit, position))
        )

    async def purge(self, before_ms: int, limit: int) -> int:
        check_limit(limit)
        return await self._run(lambda: self._purge(before_ms, limit))

    async def close(self) -> None:
        if self._thread is None:
            return
        self._check_process()
        thread, self._thread = self._thread, None
        try:
            await asyncio.wrap_future(thread.submit(self._close))
        finally:
            # its last job is done or on its way, so nothing is waited for that could block the loop
            thread.shutdown(wait=False)

    # ---- the way into the thread ----

    async def _run(self, job: Callable[[], T]) -> T:
        self._check_process()
        if self._thread is None:
            raise StoreError(f"{self._path} is not open")
        return await asyncio.wrap_future(self._thread.submit(job))

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise StoreError(
                f"{self._path} was opened by process {self._pid} and cannot be used by its forked child "
                f"{os.getpid()}: start the coordinator after the fork"
            )

    # ---- in the thread ----

    def _open(self) -> None:
        self._file = SqliteFile(self._path, self._migrations, self._connect)

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with sentences(self._path):
                file.close()

    def _connection(self) -> sqlite3.Connection:
        if self._failure is not None:
            raise StoreError(f"{self._path} has failed before and takes nothing more: {self._failure}")
        if self._file is None:
            raise StoreError(f"{self._path} is not open")
        return self._file.connection

    def _read(self, question: Callable[[sqlite3.Connection], T]) -> Callable[[], T]:
        def ask() -> T:
            try:
                with sentences(self._path):
                    return question(self._connection())
            except ValueError as nonsense:  # such as a phase that there is not, or bytes that are no UTF-8
                raise StoreCorrupt(
                    f"{self._path} holds what no troth has written ({nonsense}): restore it from a copy"
                ) from nonsense

        return ask

    def _append(self, batch: Batch) -> None:
        change = fold(batch.writes)

        def write(connection: sqlite3.Connection) -> None:
            moved = connection.execute(
                "UPDATE cell SET last_batch = ?, last_id = ? WHERE id = 1 AND last_batch = ?",
                (batch.number, batch.last_id, batch.number - 1),
            )
            if moved.rowcount != 1:
                last_batch, _ = sqlite_reading.read_counters(connection)
                raise StoreError(f"batch {batch.number} is out of order: {self._path} holds batch {last_batch}")
            sqlite_statements.write(connection, change)

        self._commit(write)

    def _purge(self, before_ms: int, limit: int) -> int:
        def write(connection: sqlite3.Connection) -> int:
            xids = sqlite_reading.read_oldest(connection, before_ms, limit)
            sqlite_statements.FORGET_OUTCOMES.run(connection, [(xid,) for xid in xids])
            return len(xids)

        return self._commit(write)

    def _commit(self, write: Callable[[sqlite3.Connection], T]) -> T:
        """Run `write` in one transaction of its own, durable on return."""
        connection = self._connection()
        try:
            connection.execute("BEGIN IMMEDIATE")
            result = write(connection)
            connection.execute("COMMIT")
        except (StoreError, sqlite3.IntegrityError, OverflowError) as refused:
            # the contents are at fault, not the disk: nothing has been committed yet
            self._roll_back(connection)
            if isinstance(refused, StoreError):
                raise
            raise StoreError(f"{self._path} refuses the batch for its contents: {refused}") from refused
        except sqlite3.Error as error:
            self._failure = explain(self._path, error)
            self._roll_back(connection)
            raise self._failure from error
        return result

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        if not connection.in_transaction:  # SQLite itself rolls back after some errors
            return
        try:
            connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            self._failure = self._failure or explain(self._path, error)
