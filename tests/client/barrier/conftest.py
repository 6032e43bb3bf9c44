"""One bank for each kind of connection that a barrier lives on."""

from __future__ import annotations

import itertools
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import barrier_banks
from barrier_banks import Bank

from fixtures_coordinator import until

SERVERLESS = ("sqlite", "aiosqlite", "sqlalchemy")
ENGINES = ("asyncpg", "pymysql", "asyncmy", "psycopg", "psycopg-async", "sqlalchemy-postgres", "sqlalchemy-async")
_SOAK = (pytest.mark.engines, pytest.mark.soak)
ALL = (
    *SERVERLESS,
    *(pytest.param(kind, marks=_SOAK) for kind in ENGINES),
    "redis",
)


@pytest.fixture(scope="session")
def barrier_urls(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """One database an engine, made when it is first asked for."""
    made: dict[str, str] = {}

    def url(engine: str) -> str:
        if engine not in made:
            made[engine] = request.getfixturevalue(f"new_{engine}_database")()
        return made[engine]

    return url


@pytest.fixture(scope="session")
def barrier_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A private Redis server."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed. As root: apt-get install redis-server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until(lambda: _listens(port), what="redis-server serves")
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def new_bank(
    request: pytest.FixtureRequest, tmp_path: Path, barrier_urls: Callable[[str], str]
) -> Callable[[str], Bank]:
    """A bank by its kind; A has 100."""

    def make(kind: str) -> Bank:
        path = str(tmp_path / f"{kind}.db")
        spelled: Callable[[str], str] = lambda url: url.replace("postgresql://", "postgresql+psycopg://")  # noqa: E731
        makers: dict[str, Callable[[], Bank]] = {
            "sqlite": lambda: barrier_banks.sqlite(path),
            "aiosqlite": lambda: barrier_banks.aio_sqlite(path),
            "sqlalchemy": lambda: barrier_banks.sqlalchemy_orm(f"sqlite:///{path}", f"sqlite:///{path}"),
            "psycopg": lambda: barrier_banks.by_cursor("psycopg", barrier_urls("postgres")),
            "pymysql": lambda: barrier_banks.by_cursor("pymysql", barrier_urls("mariadb")),
            "asyncmy": lambda: barrier_banks.aio_asyncmy(barrier_urls("mariadb")),
            "psycopg-async": lambda: barrier_banks.aio_psycopg(barrier_urls("postgres")),
            "asyncpg": lambda: barrier_banks.aio_asyncpg(barrier_urls("postgres")),
            "sqlalchemy-postgres": lambda: barrier_banks.sqlalchemy_orm(
                barrier_urls("postgres"), spelled(barrier_urls("postgres"))
            ),
            "sqlalchemy-async": lambda: barrier_banks.aio_sqlalchemy(barrier_urls("postgres")),
            "redis": lambda: barrier_banks.on_redis(request.getfixturevalue("barrier_redis")),
        }
        bank = makers[kind]()
        bank.make()
        return bank

    return make


@pytest.fixture(params=ALL)
def bank(request: pytest.FixtureRequest, new_bank: Callable[[str], Bank]) -> Bank:
    """A bank on each kind of connection."""
    return new_bank(request.param)


_NUMBERS = itertools.count()


@pytest.fixture
def gid() -> str:
    """Of one transaction; the table is shared by all tests of a server."""
    return f"gid-{next(_NUMBERS)}"
