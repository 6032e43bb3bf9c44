"""What a figure means nothing without: the machine, the versions, the disk."""

import importlib.util
import os
import platform
import statistics
import subprocess
import time
from pathlib import Path

LOAD_BEFORE = os.getloadavg()[0]
"""When this program began: later it would be its own."""


def conditions(directory: Path, store: str, generator: str) -> dict[str, str]:
    """Describe this machine and this checkout, for databases in `directory`. Probes the disk for some 100 ms."""
    facts = {
        "CPU": f"{cpu_model()}, {len(os.sched_getaffinity(0))} cores for server and generator together",
        "Kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}, {event_loop()}",
        "Generator": generator,
        "Store": store,
    }
    if store.startswith("sqlite"):
        facts["Disk"] = f"{filesystem_of(directory)}, fdatasync of 4 KiB {sync_ms(directory):.2f} ms (median of 50)"
    facts["Load before"] = load_text()
    facts["Version"] = revision()
    facts["Date"] = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return facts


def load_text() -> str:
    """What else the machine has to do; above one per core it takes part in every figure."""
    cores = len(os.sched_getaffinity(0))
    busy = ": **other programs were at work, so no figure of this run is good for more than its order**"
    return f"{LOAD_BEFORE:.2f} in the last minute{busy if cores < LOAD_BEFORE else ''}"


def cpu_model() -> str:
    """The CPU's name as Linux tells it, else what Python knows."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def event_loop() -> str:
    """Which event loop `troth serve` finds in this environment."""
    return "uvloop" if importlib.util.find_spec("uvloop") else "asyncio's own loop (no uvloop)"


def filesystem_of(directory: Path) -> str:
    """The type of the filesystem that holds `directory`: a tmpfs makes every durable write free."""
    best, kind = "", "unknown filesystem"
    mounts = Path("/proc/mounts")
    for line in mounts.read_text().splitlines() if mounts.exists() else ():
        _, mount, fstype, *_ = line.split(" ")
        if directory.resolve().is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, fstype
    return kind


def sync_ms(directory: Path, times: int = 50) -> float:
    """Median milliseconds of writing 4 KiB and forcing them to the disk."""
    probe, spent = directory / "sync-probe", []
    with probe.open("wb", buffering=0) as file:
        for _ in range(times):
            started = time.perf_counter()
            file.write(b"\0" * 4096)
            os.fdatasync(file.fileno())
            spent.append((time.perf_counter() - started) * 1000)
    probe.unlink()
    return statistics.median(spent)


def revision() -> str:
    """The checkout's commit, with `-dirty` if files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown: no git history here"
    return done.stdout.strip()
