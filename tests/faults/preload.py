"""A coordinator whose disk and clock can be made sick while it runs: `sick_process.c`, and the numbers it obeys."""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("sick_process.c")
_FIELDS: Final = ("sync_delay_us", "sync_errno", "write_errno", "clock_shift_ms", "syncs_seen", "struck")
_SIZE: Final = 8 * len(_FIELDS)


def compiler() -> str | None:
    """The C compiler, if there is one."""
    return shutil.which("cc") or shutil.which("gcc")


def build(directory: Path) -> Path:
    """Compile the library into `directory`."""
    library = directory / "sick_process.so"
    command = (compiler() or "cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl")
    subprocess.run(command, check=True, capture_output=True, text=True)
    return library


class Control:
    """The page of numbers that the library reads at every call; all 0 is healthy."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "control"
        self.path.write_bytes(bytes(_SIZE))
        with self.path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), _SIZE)

    def set(self, **numbers: int) -> None:
        """Change some of them, at once."""
        for name, number in numbers.items():
            struct.pack_into("<q", self._page, 8 * _FIELDS.index(name), number)

    def get(self, name: str) -> int:
        """One of them; `syncs_seen` and `struck` are counted by the library."""
        (number,) = struct.unpack_from("<q", self._page, 8 * _FIELDS.index(name))
        return int(number)

    def heal(self) -> None:
        """No fault any more."""
        self.set(sync_delay_us=0, sync_errno=0, write_errno=0, clock_shift_ms=0)

    def close(self) -> None:
        self._page.close()
