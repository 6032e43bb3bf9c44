"""The embedded store: one SQLite file, one thread that owns it, one row of a journal a batch.

The connection lives in a thread of its own, so the event loop never waits for a disk, and calls are answered in the
order in which they were made. Between them the thread folds the journal into the tables, one piece at a time, so a
batch waits for at most one piece. The file belongs to this process alone until `close()` or death.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from troth.core.model import Outcome, Phase
from troth.stores import sqlite_keyvalues as kv
from troth.stores.cursors import check_limit, decode_cursor
from troth.stores.migrations import Migration, load_migrations
from troth.stores.sqlite_file import Connect, SqliteFile, connect, explain, sentences
from troth.stores.sqlite_ledger import USUAL_FOLDING, Folding, Ledger
from troth.stores.store import Batch, BatchRefused, EndedPage, Hot, KeyValue, StoreCorrupt, StoreError

T = TypeVar("T")


class SqliteStore:
    """A durable store in the file `path`, whose directory must exist.

    A batch that is refused for what it says leaves the store as it was. Once a write has failed for any other
    reason, what the disk holds is in doubt: every later call raises, until the store is closed and opened again.
    """

    def __init__(
        self,
        path: str,
        *,
        folding: Folding = USUAL_FOLDING,
        migrations: Sequence[Migration] | None = None,
        connect: Connect = connect,
    ) -> None:
        """Nothing is touched before `open()`. What comes after `path` is for those who test the store."""
        self._path = path
        self._folding = folding
        self._migrations = load_migrations("sqlite") if migrations is None else migrations
        self._connect = connect
        self._thread: ThreadPoolExecutor | None = None
        self._file: SqliteFile | None = None
        self._ledger: Ledger | None = None
        self._failure: StoreError | None = None
        self._piece: asyncio.Future[None] | None = None
        self._fold_timer: asyncio.TimerHandle | None = None
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
        return await self._run(self._asking(Ledger.hot))

    async def append(self, batch: Batch) -> None:
        await self._run(partial(self._append, batch))
        self._keep_folding()

    async def outcome(self, xid: str) -> Outcome | None:
        return await self._run(self._asking(lambda ledger: ledger.outcome(xid)))

    async def find_gid(self, gid: str) -> str | None:
        return await self._run(self._asking(lambda ledger: ledger.find_gid(gid)))

    async def kv_get(self, cat: str, key: str) -> KeyValue | None:
        return await self._run(self._asking(lambda ledger: kv.get(ledger.connection, cat, key)))

    async def kv_put(self, cat: str, key: str, value: str, expected_version: int | None, now_ms: int) -> bool:
        def put(ledger: Ledger) -> bool:
            return kv.put(ledger.connection, cat, key, value, expected_version, now_ms)

        return await self._run(self._writing(put))

    async def kv_delete(self, cat: str, key: str) -> bool:
        return await self._run(self._writing(lambda ledger: kv.delete(ledger.connection, cat, key)))

    async def kv_scan(self, cat: str, after: int, limit: int) -> Sequence[KeyValue]:
        check_limit(limit)
        return await self._run(self._asking(lambda ledger: kv.scan(ledger.connection, cat, after, limit)))

    async def find_ended(self, phase: Phase | None, limit: int, cursor: str | None) -> EndedPage:
        check_limit(limit)
        position = None if cursor is None else decode_cursor(cursor)
        return await self._run(self._asking(lambda ledger: ledger.ended(phase, limit, position)))

    async def purge(self, before_ms: int, limit: int) -> int:
        check_limit(limit)
        # outcomes are kept for longer than a journal is, so only a clock that was set makes this necessary
        if await self._run(self._asking(lambda ledger: ledger.has_unfolded_ended_before(before_ms))):
            await self._fold_what_is_there()
        return await self._run(self._writing(lambda ledger: ledger.purge(before_ms, limit)))

    async def close(self) -> None:
        if self._thread is None:
            return
        self._check_process()
        if self._fold_timer is not None:
            self._fold_timer.cancel()
            self._fold_timer = None
        thread, self._thread = self._thread, None
        try:
            await asyncio.wrap_future(thread.submit(self._close))
        except BaseException:
            thread.shutdown(wait=False)  # its last job may be on its way still: that must not block the loop
            raise
        thread.shutdown()  # idle, so it ends at once; whoever looks next finds no thread of ours

    # ---- folding, beside everything else ----

    def _keep_folding(self) -> None:
        """See to it that a piece is on its way while a window is being folded, and that none waits for ever."""
        if self._thread is None or self._piece is not None or self._ledger is None or self._failure is not None:
            return
        if self._ledger.is_folding:
            self._submit_piece(self._thread, freeze=False)
        elif self._fold_timer is None and self._ledger.folded_batch < self._ledger.last_batch:
            loop = asyncio.get_running_loop()
            self._fold_timer = loop.call_later(self._folding.after_s, self._fold_what_waits)

    def _fold_what_waits(self) -> None:
        self._fold_timer = None
        if self._thread is not None and self._piece is None and os.getpid() == self._pid:
            self._submit_piece(self._thread, freeze=True)

    def _submit_piece(self, thread: ThreadPoolExecutor, *, freeze: bool) -> None:
        job = self._writing(partial(_fold_piece, freeze=freeze))
        self._piece = asyncio.wrap_future(thread.submit(job))
        self._piece.add_done_callback(self._piece_is_done)

    def _piece_is_done(self, piece: asyncio.Future[None]) -> None:
        self._piece = None
        if not piece.cancelled() and piece.exception() is None:  # else every later call raises it
            self._keep_folding()

    async def _fold_what_is_there(self) -> None:
        """Until the tables have every batch of now."""
        last_batch = await self._run(self._asking(lambda ledger: ledger.last_batch))
        while await self._run(self._asking(lambda ledger: ledger.folded_batch)) < last_batch:
            await self._run(self._writing(partial(_fold_piece, freeze=True)))

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
        with sentences(self._path), self._whole():
            self._ledger = Ledger(self._file.connection, self._path, self._folding)

    def _close(self) -> None:
        file, self._file = self._file, None
        ledger, self._ledger = self._ledger, None
        if file is None:
            return
        with sentences(self._path):
            try:
                if ledger is not None and self._failure is None:
                    ledger.fold_all()
            finally:
                file.close()

    def _checked(self) -> Ledger:
        if self._failure is not None:
            raise StoreError(f"{self._path} has failed before and takes nothing more: {self._failure}")
        if self._ledger is None:
            raise StoreError(f"{self._path} is not open")
        return self._ledger

    def _asking(self, question: Callable[[Ledger], T]) -> Callable[[], T]:
        def ask() -> T:
            with sentences(self._path), self._whole():
                return question(self._checked())

        return ask

    def _writing(self, write: Callable[[Ledger], T]) -> Callable[[], T]:
        """Whatever goes wrong in `write`, memory and disk may differ from then on."""

        def do() -> T:
            ledger = self._checked()
            try:
                with self._whole():
                    return write(ledger)
            except Exception as error:
                raise self._fail(error) from error

        return do

    def _append(self, batch: Batch) -> None:
        ledger = self._checked()
        try:
            ledger.append(batch)
        except (StoreError, OverflowError) as refused:
            # the contents are at fault, not the disk: nothing has been committed
            self._writing(Ledger.recover)()
            if isinstance(refused, StoreError):
                raise
            raise BatchRefused(f"{self._path} refuses the batch for its contents: {refused}") from refused
        except Exception as error:
            raise self._fail(error) from error

    def _fail(self, error: Exception) -> StoreError:
        """From now on nothing is believed or taken; returns what to raise."""
        if isinstance(error, sqlite3.Error):
            self._failure = explain(self._path, error)
        elif isinstance(error, StoreError):
            self._failure = error
        else:
            self._failure = StoreError(f"{self._path} failed: {error!r}")
        if self._file is not None and self._file.connection.in_transaction:
            # not to undo anything, which closing does as well, but to let go of what is locked
            with contextlib.suppress(sqlite3.Error):
                self._file.connection.execute("ROLLBACK")
        return self._failure

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """Turns what cannot be read back into StoreCorrupt."""
        try:
            yield
        except ValueError as nonsense:  # such as a phase that there is not, or bytes that are no UTF-8
            raise StoreCorrupt(
                f"{self._path} holds what no troth has written ({nonsense}): restore it from a copy"
            ) from nonsense


def _fold_piece(ledger: Ledger, *, freeze: bool) -> None:
    if freeze:
        ledger.freeze()
    ledger.fold_piece()
