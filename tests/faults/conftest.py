"""One bank for all faults, made anew after a failure; the options that replay one fault; the table of a whole run."""

from __future__ import annotations

import random
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from bank_holder import BankHolder
from fault_list import FAULTS
from fault_table import Row, write

DRAWN = 8
_SEED = pytest.StashKey[int]()
_ROWS = pytest.StashKey[list[Row]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--fault", default=None, help="run this fault only, whatever is drawn")
    group.addoption("--seed", type=int, default=None, help="what is drawn, and what each fault does")
    group.addoption("--during", type=float, default=None, help="seconds of each fault")
    group.addoption("--faults-table", default=None, metavar="FILE", help="write the table of all faults there")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Eight faults that the seed draws, or the one that is asked for."""
    if "drawn_fault" in metafunc.fixturenames:
        asked, seed = metafunc.config.getoption("--fault", default=None), seed_of(metafunc.config)
        drawn = [asked] if asked else random.Random(seed).sample(sorted(FAULTS), DRAWN)
        metafunc.parametrize("drawn_fault", drawn)


def seed_of(config: pytest.Config) -> int:
    """The run's seed: given, or drawn once."""
    if _SEED not in config.stash:
        asked = config.getoption("--seed", default=None)
        config.stash[_SEED] = secrets.randbelow(1_000_000) if asked is None else asked
    return config.stash[_SEED]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for row in config.stash.get(_ROWS, []):
        terminalreporter.write_line(f"fault {row.fault}, seed {row.seed}: {row.outcome} ({row.told()})")


@pytest.fixture(scope="session")
def bank_holder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BankHolder]:
    holder = BankHolder(lambda: tmp_path_factory.mktemp("bank"))
    yield holder
    holder.discard()


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    return seed_of(pytestconfig)


@pytest.fixture(scope="session")
def table(pytestconfig: pytest.Config) -> Iterator[list[Row]]:
    """Rows of what has run; written at the end if asked for."""
    rows = pytestconfig.stash.setdefault(_ROWS, [])
    yield rows
    path = pytestconfig.getoption("--faults-table", default=None)
    if path:
        write(Path(path), rows)
