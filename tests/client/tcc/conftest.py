"""One coordinator in this process for all tests of TCC, a private Redis, and a bank on each kind of connection."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import tcc_banks
from tcc_banks import Bank

import troth
from fixtures_coordinator import until

KINDS = ("sqlite", "psycopg-async", "pymysql")
MORE = (
    "psycopg",
    "sqlalchemy",
    "sqlalchemy-mariadb",
    "redis",
    "aiosqlite",
    "sqlalchemy-async",
    "redis-async",
    "asyncpg",
    "asyncmy",
)


@pytest.fixture(scope="module")
def tcc_coordinator() -> Iterator[troth.Client]:
    """A whole coordinator, with short pauses between two attempts."""
    with troth.embedded(retry__min="50ms", retry__max="200ms") as client:
        yield client


@pytest.fixture(autouse=True)
def tcc_client(tcc_coordinator: troth.Client) -> troth.Client:
    return tcc_coordinator


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
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


@pytest.fixture(scope="session")
def tcc_urls(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """One database an engine, made when it is first asked for."""
    made: dict[str, str] = {}

    def url(engine: str) -> str:
        if engine not in made:
            made[engine] = request.getfixturevalue(f"new_{engine}_database")()
        return made[engine]

    return url


@pytest.fixture
def new_bank(request: pytest.FixtureRequest, tmp_path: Path, tcc_urls: Callable[[str], str]) -> Callable[[str], Bank]:
    """A bank by its kind, with fresh books."""

    def make(kind: str) -> Bank:
        path = str(tmp_path / f"{kind}.db")
        makers: dict[str, Callable[[], Bank]] = {
            "sqlite": lambda: tcc_banks.sqlite(path),
            "psycopg": lambda: tcc_banks.by_cursor("psycopg", tcc_urls("postgres")),
            "pymysql": lambda: tcc_banks.by_cursor("pymysql", tcc_urls("mariadb")),
            "sqlalchemy": lambda: tcc_banks.sqlalchemy_orm(path),
            "sqlalchemy-mariadb": lambda: tcc_banks.sqlalchemy_mariadb(tcc_urls("mariadb")),
            "redis": lambda: tcc_banks.on_redis(request.getfixturevalue("redis_url")),
            "aiosqlite": lambda: tcc_banks.aio_sqlite(path),
            "psycopg-async": lambda: tcc_banks.aio_psycopg(tcc_urls("postgres")),
            "asyncpg": lambda: tcc_banks.aio_asyncpg(tcc_urls("postgres")),
            "asyncmy": lambda: tcc_banks.aio_asyncmy(tcc_urls("mariadb")),
            "sqlalchemy-async": lambda: tcc_banks.aio_sqlalchemy(tcc_urls("postgres")),
            "redis-async": lambda: tcc_banks.on_redis_async(request.getfixturevalue("redis_url")),
        }
        bank = makers[kind]()
        bank.make()
        return bank

    return make


@pytest.fixture(params=[*KINDS, *(pytest.param(kind, marks=pytest.mark.soak) for kind in MORE)])
def bank(request: pytest.FixtureRequest, new_bank: Callable[[str], Bank]) -> Bank:
    """A bank on each kind of connection."""
    return new_bank(request.param)


@pytest.fixture
def sqlite_bank(new_bank: Callable[[str], Bank]) -> Bank:
    return new_bank("sqlite")
