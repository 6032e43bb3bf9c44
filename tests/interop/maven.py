"""Class paths of the Maven projects here: built once, kept in `target/` until a source changes."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
BUILD_WITHIN_S = 300.0


class MavenFailed(AssertionError):
    """The Java part cannot be built: that is a failure of the tests, not a reason to leave them out."""


def java() -> str:
    """The JVM to run. Raises MavenFailed if there is none."""
    return _program("java", "a JDK 17 (Debian: openjdk-17-jdk-headless)")


def class_path(project: str, target: str, *options: str) -> str:
    """The class path of the Maven project `project`, whose build directory is `target` of it."""
    directory = HERE / project
    listing = directory / target / "classpath.txt"
    directory.joinpath("target").mkdir(exist_ok=True)
    with (directory / "target" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs may share a checkout
        if not _fresh(directory, listing):
            _build(directory, options)
    return f"{directory / target / 'classes'}:{listing.read_text(encoding='utf-8').strip()}"


def _fresh(directory: Path, listing: Path) -> bool:
    if not listing.exists():
        return False
    built = listing.stat().st_mtime
    sources = [directory / "pom.xml", *directory.glob("src/**/*.*")]
    jars = listing.read_text(encoding="utf-8").strip().split(":")
    return all(source.stat().st_mtime <= built for source in sources) and all(Path(jar).exists() for jar in jars)


def _build(directory: Path, options: tuple[str, ...]) -> None:
    command = [_program("mvn", "Maven (Debian: maven)"), "-B", "-q", *options, "compile"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=BUILD_WITHIN_S, check=False)
    if done.returncode != 0:
        told = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise MavenFailed(f"`{' '.join(command)}` in {directory} failed; is Maven's repository within reach?\n{told}")


def _program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise MavenFailed(f"the Java part of the tests needs {package}, and `{name}` is not on the PATH")
    return found
