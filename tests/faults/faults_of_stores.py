"""The coordinator's own store: slow, read-only, full, and a disk that does not keep its word."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bank import Bank
from fault import STRIKE_WITHIN_S, Fault, again_and_again
from preload import compiler

from fixtures_coordinator import until

_TMPFS_BYTES = 4 << 20


def no_preload() -> str | None:
    return None if compiler() else "no C compiler for the preloaded library"


def no_mount() -> str | None:
    """None if we may mount a tmpfs."""
    if os.geteuid() != 0:
        return "mounting a small tmpfs needs root"
    with tempfile.TemporaryDirectory() as directory:
        command = ("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", directory)
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            return "root may not mount a tmpfs here"
        subprocess.run(("umount", directory), check=True)
    return no_preload()


def slow(bank: Bank, chance: random.Random, during_s: float) -> int:
    before = bank.control.get("struck")
    until_s = time.monotonic() + during_s
    while time.monotonic() < until_s:
        bank.control.set(sync_delay_us=chance.choice((5_000, 50_000, 400_000)))
        time.sleep(0.3)
    return bank.control.get("struck") - before


def _must_stop(bank: Bank, said: str) -> None:
    """After a write that failed, what is durable is unknown: the only right thing is to end, and say so."""
    until(lambda: not bank.coordinator.alive, STRIKE_WITHIN_S, "the coordinator has stopped")
    status = bank.coordinator.wait()
    assert status == 1, f"the coordinator ended with status {status}"
    assert said in bank.coordinator.log(), f"{said!r} is not in the log: {bank.coordinator.log()[-3000:]}"


def sync_failed(bank: Bank, chance: random.Random, during_s: float) -> int:
    def once() -> None:
        time.sleep(chance.uniform(0.05, 0.5))
        bank.control.set(sync_errno=errno.EIO)
        _must_stop(bank, "disk I/O error")
        bank.control.heal()
        bank.start_coordinator()

    return again_and_again(during_s, once)


def read_only(bank: Bank, chance: random.Random, during_s: float) -> int:
    def once() -> None:
        time.sleep(chance.uniform(0.05, 0.5))
        bank.control.set(write_errno=errno.EROFS)
        _must_stop(bank, "could not go on")
        bank.control.heal()
        bank.start_coordinator()

    return again_and_again(during_s, once)


@contextmanager
def _small_tmpfs(parent: Path) -> Iterator[Path]:
    place = parent / "small"
    place.mkdir(exist_ok=True)
    subprocess.run(("mount", "-t", "tmpfs", "-o", f"size={_TMPFS_BYTES}", "tmpfs", str(place)), check=True)
    try:
        yield place
    finally:
        subprocess.run(("umount", "--lazy", str(place)), check=True)


def _fill(ballast: Path) -> None:
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def _when_quiet_with(bank: Bank, parent: Path) -> None:
    """Swap the coordinator's store: nothing may be open in the old one, so the load rests meanwhile."""
    bank.rest()
    bank.renew_coordinator(parent)
    bank.go_on()


def disk_full(bank: Bank, chance: random.Random, during_s: float) -> int:
    """A tmpfs of 4 MiB fills up; the coordinator stops; the ballast goes and it starts on what is there."""
    with _small_tmpfs(bank.directory) as place:
        _when_quiet_with(bank, place)

        def once() -> None:
            time.sleep(chance.uniform(0.2, 0.6))
            _fill(place / "ballast")
            _must_stop(bank, "could not go on")
            (place / "ballast").unlink()
            bank.start_coordinator()

        count = again_and_again(during_s, once)
        time.sleep(0.3)
        _when_quiet_with(bank, bank.directory)
    return count


FAULTS = (
    Fault("store-slow", "fsync takes up to 0.4 s", slow, no_preload),
    Fault("store-read-only", "writes fail with EROFS", read_only, no_preload),
    Fault("disk-full", "the store's file system (tmpfs, 4 MiB) is full", disk_full, no_mount),
    Fault("fsync-failed", "fsync and fdatasync fail with EIO", sync_failed, no_preload),
)
