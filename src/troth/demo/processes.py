"""The demo's child processes: started, listened to, and always ended."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

import msgspec

from troth.demo.events import Anything

_DECODER: Final[msgspec.json.Decoder[Anything]] = msgspec.json.Decoder(Anything)
STOP_WITHIN_S: Final = 10.0
"""How long children may take to end by themselves."""
_LOG_TAIL_LINES: Final = 25

E = TypeVar("E", bound=Anything)


class ChildFailed(RuntimeError):
    """A process of the demo ended before its time, or did not say what it should in time."""


@dataclass(slots=True)
class Child:
    """One process; what it writes besides events goes to its log."""

    name: str
    process: subprocess.Popen[bytes]
    out: FileIO
    log: Path
    unread: bytes = b""
    at_end: bool = False


@dataclass(frozen=True, slots=True)
class Said:
    """An event and who said it."""

    who: str
    event: Anything


class Family:
    """Children in `directory`; each is a process group of its own, so Ctrl-C reaches only the parent."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._children: list[Child] = []
        self._selector = selectors.DefaultSelector()
        self._kept: list[Said] = []
        self._environment = MappingProxyType(
            # Settings of the user's own coordinator are not meant for this one.
            {key: value for key, value in os.environ.items() if not key.startswith("TROTH_")}
        )

    @property
    def children(self) -> Sequence[Child]:
        """Those that were started and not stopped, oldest first."""
        return tuple(self._children)

    def start(self, name: str, arguments: Sequence[str], *, pass_fds: Sequence[int] = ()) -> Child:
        """Start `python ARGUMENTS`; its standard input is a pipe that ends with this process (see `tethered`)."""
        log = self._directory / f"{name}.log"
        with log.open("ab") as log_file:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                cwd=self._directory,
                env=dict(self._environment),
                pass_fds=tuple(pass_fds),
                start_new_session=True,
                bufsize=0,
            )
        if not isinstance(process.stdout, FileIO):
            raise TypeError("an unbuffered pipe was asked for")
        child = Child(name, process, process.stdout, log)
        os.set_blocking(child.out.fileno(), False)
        self._children.append(child)
        self._selector.register(child.out, selectors.EVENT_READ, child)
        return child

    def listen(self, wait_s: float) -> list[Said]:
        """What the children have said, in the order it happened; waits up to `wait_s` for something."""
        if self._kept:
            kept, self._kept = self._kept, []
            return kept
        said: list[Said] = []
        for key, _ in self._selector.select(wait_s):
            said += self._read(key.data)
        return sorted(said, key=lambda one: one.event.at_ns)

    def expect(self, child: Child, kind: type[E], within_s: float) -> E:
        """The next event of `kind` by `child`; what is said besides is kept for `listen`.

        Raises:
            ChildFailed: the child ended, or said nothing of the kind in time.
        """
        deadline = time.monotonic() + within_s
        others: list[Said] = []
        try:
            while time.monotonic() < deadline:
                heard = self.listen(0.1)
                for place, said in enumerate(heard):
                    if said.who == child.name and isinstance(said.event, kind):
                        others += heard[place + 1 :]
                        return said.event
                    others.append(said)
                self.check(child)
        finally:
            self._kept = others
        raise ChildFailed(f"{child.name} did not say {kind.__name__!r} within {within_s:g} s{_tail(child)}")

    def check(self, *children: Child) -> None:
        """Raise `ChildFailed` if one of `children` (default: any child) has ended; its log's end is in the error."""
        for child in children or self.children:
            status = child.process.poll()
            if status is not None:
                raise ChildFailed(f"{child.name} ended with status {status}{_tail(child)}")

    def stop(self, *children: Child, within_s: float = STOP_WITHIN_S) -> None:
        """End `children` (default: all), youngest first: SIGTERM, then SIGKILL for those that stay."""
        going = [child for child in reversed(self._children) if not children or child in children]
        for child in going:
            _signal_group(child, signal.SIGTERM)
        deadline = time.monotonic() + within_s
        for child in going:
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.1, deadline - time.monotonic()))
            _signal_group(child, signal.SIGKILL)
            child.process.wait()
            self._forget(child)

    def _read(self, child: Child) -> list[Said]:
        piece = child.out.read(65536)
        if piece is None:
            return []
        if piece == b"":
            child.at_end = True
            self._selector.unregister(child.out)
        *lines, child.unread = (child.unread + piece).split(b"\n")
        return [Said(child.name, event) for line in lines if (event := _decoded(child, line)) is not None]

    def _forget(self, child: Child) -> None:
        self._children.remove(child)
        if not child.at_end:
            self._selector.unregister(child.out)
        child.out.close()
        if child.process.stdin is not None:
            child.process.stdin.close()


def _decoded(child: Child, line: bytes) -> Anything | None:
    try:
        return _DECODER.decode(line)
    except msgspec.DecodeError:
        with child.log.open("ab") as log:
            log.write(line + b"\n")
        return None


def _signal_group(child: Child, number: int) -> None:
    # The group outlives its leader if that left children behind, so it is asked even when the leader has ended.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.process.pid, number)


def _tail(child: Child) -> str:
    lines = child.log.read_text("utf-8", "replace").splitlines()[-_LOG_TAIL_LINES:]
    return f". The end of {child.log}:\n" + "\n".join(f"    {line}" for line in lines)
