"""One coordinator, relay and JVM for all tests beside real Java, and fresh databases for each module of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from java_app import NEWEST, OLDER, JavaApp
from shop import Shop, open_shop
from wiretap import Wiretap

from fixtures_coordinator import CoordinatorProcess
from troth.demo.servers.private import PrivateServer


@pytest.fixture(scope="session")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoordinatorProcess]:
    """One for all of these modules; one of them kills it and starts it again."""
    process = CoordinatorProcess(tmp_path_factory.mktemp("coordinator"))
    try:
        yield process.start()
    finally:
        process.close()


@pytest.fixture(scope="session", params=[NEWEST, *(pytest.param(old, marks=pytest.mark.soak) for old in OLDER)])
def seata_version(request: pytest.FixtureRequest) -> str:
    """Java's: the newest, and in long runs older ones."""
    version: str = request.param
    return version


@pytest.fixture(scope="session")
def wiretap(coordinator: CoordinatorProcess, seata_version: str) -> Iterator[Wiretap]:
    """Between one JVM and the coordinator."""
    tap = Wiretap(coordinator.port)
    yield tap
    tap.close()


@pytest.fixture(scope="session")
def java(seata_version: str, wiretap: Wiretap, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JavaApp]:
    """A real Seata client in a JVM of its own."""
    log = tmp_path_factory.mktemp("java") / "java.log"
    app = JavaApp(wiretap.address, log, application=f"java-{seata_version}", version=seata_version)
    yield app
    app.close()


@pytest.fixture(scope="module")
def mariadb_shop(java: JavaApp, mariadb_server: PrivateServer, new_mariadb_database: Callable[[], str]) -> Shop:
    """A MariaDB database under Java's AT."""
    return open_shop(mariadb_server, new_mariadb_database(), java, "mariadb")


@pytest.fixture(scope="module")
def postgres_shop(java: JavaApp, postgres_server: PrivateServer, new_postgres_database: Callable[[], str]) -> Shop:
    """A PostgreSQL database under Java's AT."""
    return open_shop(postgres_server, new_postgres_database(), java, "postgres")
