"""An exclusive lock of the operating system on a file, which dies with the process that holds it."""

from __future__ import annotations

import contextlib
import os
import sys

if sys.platform == "win32":
    import msvcrt

    # a locked byte cannot be read by others on Windows, so the one that is locked lies far behind the process id
    _LOCKED_BYTE = 1 << 30

    def _lock(fd: int) -> None:
        os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(fd: int) -> None:
        # flock, not lockf: a record lock would not keep out a second store in this process,
        # and would be lost as soon as anybody here closed another descriptor of the same file
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


class FileLocked(Exception):
    """Somebody else holds the lock; `holder_pid` is what they wrote into the file, if it can be read."""

    def __init__(self, path: str, holder_pid: int | None) -> None:
        super().__init__(f"{path} is locked")
        self.holder_pid = holder_pid


class FileLock:
    """A lock held from construction to `release()`; the file stays, empty, since removing it would race."""

    def __init__(self, path: str) -> None:
        """Take the lock at `path` without waiting. Raises FileLocked, or OSError if the file cannot be made."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            _lock(fd)
        except (BlockingIOError, PermissionError) as held:
            holder_pid = _read_pid(fd)
            os.close(fd)
            raise FileLocked(path, holder_pid) from held
        except OSError:
            os.close(fd)
            raise
        self._fd: int | None = fd
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, f"{os.getpid()}\n".encode("ascii"))

    def release(self) -> None:
        """Let others have it. Releasing twice is harmless."""
        if self._fd is not None:
            with contextlib.suppress(OSError):  # a stale process id in the file misleads nobody: only the lock counts
                os.ftruncate(self._fd, 0)
            self.drop_descriptor()

    def drop_descriptor(self) -> None:
        """Close this process's copy. In a forked child the parent's copy still holds the lock."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)


def _read_pid(fd: int) -> int | None:
    os.lseek(fd, 0, os.SEEK_SET)
    text = os.read(fd, 32).decode("ascii", "replace").strip()
    return int(text) if text.isascii() and text.isdigit() else None
