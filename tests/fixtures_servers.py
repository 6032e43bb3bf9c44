"""Real database servers: one PostgreSQL and one MariaDB for the whole run, started when the first test asks."""

from collections.abc import Callable, Iterator

import pytest

from troth.demo.servers.install import command, missing
from troth.demo.servers.plan import Kind
from troth.demo.servers.private import PrivateServer, start


def _server(kind: Kind) -> Iterator[PrivateServer]:
    absent = missing([kind])
    if absent:
        pytest.skip(f"{kind} is not installed. As root: {command(absent)}")
    (server,) = start(kind)
    yield server
    server.stop()


def _new_database(server: PrivateServer, run_counter: Iterator[int]) -> Callable[[], str]:
    return lambda: server.create_database(f"test_{next(run_counter)}")


@pytest.fixture(scope="session")
def _database_numbers() -> Iterator[int]:
    return iter(range(1, 1_000_000))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PrivateServer]:
    yield from _server(Kind.POSTGRES)


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[PrivateServer]:
    yield from _server(Kind.MARIADB)


@pytest.fixture(scope="session")
def postgres_url(postgres_server: PrivateServer) -> str:
    """`postgresql://user:password@127.0.0.1:port/postgres`; the user is a superuser."""
    return postgres_server.url


@pytest.fixture(scope="session")
def mariadb_url(mariadb_server: PrivateServer) -> str:
    """`mysql://user:password@127.0.0.1:port/mysql`; the user may do everything."""
    return mariadb_server.url


@pytest.fixture(scope="session")
def new_postgres_database(postgres_server: PrivateServer, _database_numbers: Iterator[int]) -> Callable[[], str]:
    """Each call makes an empty database and gives its URL. (About 0.1 s: one per module is a good measure.)"""
    return _new_database(postgres_server, _database_numbers)


@pytest.fixture(scope="session")
def new_mariadb_database(mariadb_server: PrivateServer, _database_numbers: Iterator[int]) -> Callable[[], str]:
    """Each call makes an empty database and gives its URL."""
    return _new_database(mariadb_server, _database_numbers)
