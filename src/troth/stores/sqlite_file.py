"""Sole possession of one SQLite file: the lock, the connection, and what becomes of both in a forked child."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sqlite3
import stat
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence

from troth.stores.filelock import FileLock, FileLocked
from troth.stores.migrations import Migration, identify, migrate
from troth.stores.store import StoreCorrupt, StoreError, StoreInUse

Connect = Callable[[str], sqlite3.Connection]

OLDEST_SQLITE = (3, 35, 0)
CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
SMALLEST_DATABASE = 512
SYNCHRONOUS_FULL = 2


def connect(path: str) -> sqlite3.Connection:
    """A connection without transactions of its own making; statements of many rows stay prepared."""
    return sqlite3.connect(path, timeout=0, isolation_level=None, cached_statements=128)


class SqliteFile:
    """An open database that no other process can open, from construction to `close()`.

    Everything but `disown_in_child` belongs to the thread that constructed it.
    """

    def __init__(self, path: str, migrations: Sequence[Migration], connect: Connect) -> None:
        """Lock, check and migrate `path`. Raises StoreInUse, StoreCorrupt, StoreTooNew, StoreError."""
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old for a store; 3.35 or newer is needed")
        self.path = os.path.realpath(path)
        try:
            check_place(self.path)
        except OSError as error:
            raise StoreError(f"{self.path} cannot be looked at: {error.strerror}") from error
        self._lock = _take_lock(self.path)
        try:
            self.connection = self._connect(connect, migrations)
        except BaseException:
            self._lock.release()
            raise
        _watch_forks(self)

    def _connect(self, connect: Connect, migrations: Sequence[Migration]) -> sqlite3.Connection:
        with sentences(self.path):
            connection = connect(self.path)
            try:
                # before the first read: from then on SQLite's own lock keeps out every other program as well
                connection.execute("PRAGMA locking_mode = EXCLUSIVE")
                version = identify(connection, self.path, migrations[-1].number)
                check_whole(connection, self.path)
                make_durable(connection, self.path)
                migrate(connection, version, migrations)
            except BaseException:
                connection.close()
                raise
        return connection

    def close(self) -> None:
        """Close the database, then let others have it. Closing twice is harmless."""
        try:
            self.connection.close()
        finally:
            self._lock.release()

    def disown_in_child(self) -> None:
        """Right after a fork, in the child: make sure that it can neither hold the lock nor harm the file.

        Closing the inherited connection, even by garbage collection, would check the log into the file and delete
        it under the parent, whose later commits would be lost. So it is never closed: one reference stays for ever.
        """
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.connection))
        self._lock.drop_descriptor()


def check_place(path: str) -> None:
    """Raises StoreError unless `path` is a regular file, or may become one in a directory that exists."""
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        raise StoreError(f"the directory {directory} of the store {path} does not exist: create it first")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise StoreError(f"the directory {directory} is not writable, but the store keeps its log and its lock there")
    if not os.path.lexists(path):
        return
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(f"{path} is not a regular file, so it cannot be a store")
    if not os.access(path, os.R_OK | os.W_OK):
        raise StoreError(f"{path} cannot be read and written by this user")
    if 0 < found.st_size < SMALLEST_DATABASE:  # SQLite takes such a file for an empty one and writes over it
        raise StoreCorrupt(f"{path} is too short to be a SQLite database: restore it from a copy, or name another file")


def check_whole(connection: sqlite3.Connection, path: str) -> None:
    """Raises StoreCorrupt if a page of the file is damaged; reads the whole file."""
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise StoreCorrupt(f"{path} is damaged ({verdict}): restore it from a copy")


def make_durable(connection: sqlite3.Connection, path: str) -> None:
    """Set what a commit needs to survive a power loss, and read it back: SQLite ignores what it cannot do."""
    for setting in ("journal_mode = WAL", "synchronous = FULL", "fullfsync = ON", "foreign_keys = OFF"):
        connection.execute(f"PRAGMA {setting}").fetchall()
    check_synchronous(connection, path)
    for name, value in (("journal_mode", "wal"), ("locking_mode", "exclusive"), ("foreign_keys", 0)):
        _check_setting(connection, path, name, value)


def check_synchronous(connection: sqlite3.Connection, path: str) -> None:
    """Raises StoreError unless a commit is flushed to the disk before it returns."""
    _check_setting(connection, path, "synchronous", SYNCHRONOUS_FULL)


def _check_setting(connection: sqlite3.Connection, path: str, name: str, value: str | int) -> None:
    (found,) = connection.execute(f"PRAGMA {name}").fetchone()
    if found != value:
        raise StoreError(f"{path} cannot be a durable store: SQLite reports {name} = {found}, not {value}")


@contextlib.contextmanager
def sentences(path: str) -> Iterator[None]:
    """Turns SQLite's errors into ours, each with what to do about it."""
    try:
        yield
    except sqlite3.Error as error:
        raise explain(path, error) from error


def explain(path: str, error: sqlite3.Error) -> StoreError:
    """The error of ours that says what `error` means for the store at `path`."""
    # extended codes carry the primary one in their low byte
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in CORRUPT:
        return StoreCorrupt(f"{path} is damaged or not a SQLite database ({error}): restore it from a copy")
    if code in BUSY:
        return StoreInUse(f"{path} is held by another program that does not take our lock; close it ({error})")
    if code == sqlite3.SQLITE_FULL:
        return StoreError(f"the disk is full, {path} cannot grow: free space, then start again ({error})")
    return StoreError(f"{path} failed: {error} ({getattr(error, 'sqlite_errorname', type(error).__name__)})")


def _take_lock(path: str) -> FileLock:
    try:
        return FileLock(f"{path}.lock")
    except FileLocked as locked:
        holder = f"process {locked.holder_pid}" if locked.holder_pid else "another process"
        if locked.holder_pid == os.getpid():
            holder = f"this process ({locked.holder_pid})"
        raise StoreInUse(
            f"{path} is in use by {holder}: connect to that coordinator, stop it, or name another file"
        ) from locked
    except OSError as error:
        raise StoreError(f"the lock file {path}.lock cannot be written: {error.strerror}") from error


def _watch_forks(file: SqliteFile) -> None:
    if sys.platform == "win32":
        return
    # a fork hook cannot be taken back, so it must not keep a closed file alive
    reference = weakref.WeakMethod(file.disown_in_child)

    def disown() -> None:
        method = reference()
        if method is not None:
            method()

    os.register_at_fork(after_in_child=disown)
