from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from troth.client.client import Client
from troth.client.settings import ClientSettings


def _load(name: str) -> ModuleType:
    """importmode=importlib gives test folders no package, so what they share is loaded by path, once."""
    key = f"troth_tests_{name}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module
        spec.loader.exec_module(module)
    return sys.modules[key]


fake = _load("fake_coordinator")

QUICK = ClientSettings(
    connect_timeout_s=2.0,
    link_wait_s=2.0,
    tm_timeout_s=2.0,
    rm_timeout_s=2.0,
    heartbeat_s=0.5,
    idle_timeout_s=1.5,
    reconnect_min_s=0.02,
    reconnect_max_s=0.1,
    begin_retry_timeout_s=2.0,
    commit_retry_timeout_s=2.0,
    rollback_retry_timeout_s=1.0,
    retry_pause_s=0.02,
    close_wait_s=2.0,
)


@pytest.fixture
def coordinator() -> Iterator[Any]:
    server = fake.FakeCoordinator()
    yield server
    server.close()


@pytest.fixture
def quick() -> ClientSettings:
    return QUICK


@pytest.fixture
def connect(coordinator: Any) -> Iterator[Callable[..., Client]]:
    """Makes clients of the fake coordinator, closed at the end of the test."""
    clients: list[Client] = []

    def make(settings: ClientSettings = QUICK, **options: Any) -> Client:
        client = Client(coordinator.address, "shop", settings=settings, **options)
        clients.append(client)
        return client.start()

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(connect: Callable[..., Client]) -> Client:
    return connect()
