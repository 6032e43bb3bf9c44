"""Two runs of pytest share the tests between them: `pytest --lane DIRECTORY`, twice, with one empty directory.

Each takes a group of tests (a file; or a folder whose tests share what is expensive to start) when it is done with the
last one, so both end at about the same time whatever the machine. One goes forward and begins with what waits for
processes and databases, the other goes `--lane-backwards` and begins with what only computes.
"""

import itertools
import os
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ONE_GROUP = ("tests/interop/",)
"""Folders whose tests stay together: here, one Seata server and one JVM for all of them."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lanes")
    group.addoption("--lane", type=Path, metavar="DIRECTORY", help="share the tests with who has the same DIRECTORY")
    group.addoption("--lane-backwards", action="store_true", help="take the last tests first")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.lane is not None:
        config.pluginmanager.register(Lane(config.option.lane, config.option.lane_backwards))


def group_of(item: pytest.Item) -> str:
    """What an item is taken together with."""
    path = item.nodeid.partition("::")[0]
    return next((folder for folder in ONE_GROUP if path.startswith(folder)), path)


def in_order(items: Sequence[pytest.Item]) -> list[tuple[str, list[pytest.Item]]]:
    """The groups: the largest first, then those with processes and databases, then those that only compute."""
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        groups.setdefault(group_of(item), []).append(item)

    def rank(name: str) -> int:
        return 0 if name in ONE_GROUP else 1 if any(item.get_closest_marker("engines") for item in groups[name]) else 2

    return [(name, groups[name]) for name in sorted(groups, key=rank)]


class Lane:
    """Runs what the other lane has not taken."""

    def __init__(self, directory: Path, backwards: bool) -> None:
        self._directory = directory
        self._backwards = backwards
        self._parent = os.getppid()

    def _take(self, name: str) -> bool:
        """True for the first who asks."""
        try:
            (self._directory / urllib.parse.quote(name, safe="")).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _groups(self, items: Sequence[pytest.Item]) -> Iterator[list[pytest.Item]]:
        groups = in_order(items)
        for name, group in reversed(groups) if self._backwards else groups:
            if os.getppid() != self._parent:
                pytest.exit("who started this lane is gone", returncode=pytest.ExitCode.INTERRUPTED)
            if self._take(name):
                yield group

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """As pytest's own, over the tests that this lane takes."""
        if session.testsfailed or session.config.option.collectonly:
            return None  # pytest's own says what is wrong
        for group in self._groups(session.items):
            # What follows a group is not known before it has ended: it leaves what belongs to the whole run.
            for item, following in itertools.pairwise([*group, session]):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if session.shouldfail:
                    raise session.Failed(session.shouldfail)
                if session.shouldstop:
                    raise session.Interrupted(session.shouldstop)
        session._setupstate.teardown_exact(None)  # here an error ends the run with an error of its own
        return True
