"""The process's default client: the one place that holds it, and that tells who waits for it."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, Final, Protocol

from troth.client.client import Client
from troth.client.errors import NotInitialised
from troth.client.settings import ClientSettings


class Served(Protocol):
    """What is served through the process's default client, whichever that is."""

    def announce(self) -> None:
        """Register at the default client, if that can be done now."""
        ...


class Holder:
    """Holds at most one client, and knows (weakly) what wants to be served through it. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._served: weakref.WeakValueDictionary[int, Served] = weakref.WeakValueDictionary()
        self._count = 0
        self._waiting: dict[Hashable, Served] = {}

    def note(self, served: Served) -> None:
        """Keep `served` in mind, as long as it lives, after all that came before it."""
        with self._lock:
            self._count += 1
            self._served[self._count] = served

    def served(self) -> list[Served]:
        """What is kept in mind, in the order it came."""
        with self._lock:
            return [one for _, one in sorted(self._served.items())]

    def let_wait(self, key: Hashable, served: Served) -> None:
        """Hold `served` for the next client; of one `key`, the latest."""
        with self._lock:
            self._waiting[key] = served

    def take_waiting(self) -> list[Served]:
        """What is held for the next client; it is not held any more."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
            return list(waiting.values())

    def swap(self, client: Client | None) -> Client | None:
        """Hold `client`; the one that was held is returned."""
        with self._lock:
            held, self._client = self._client, client
            return held

    @property
    def client(self) -> Client | None:
        """The client that is held and open."""
        client = self._client
        return None if client is None or client.closed else client

    def after_fork_in_child(self) -> None:
        """Another thread of the parent may have held the lock; it is not here to release it."""
        self._lock = threading.Lock()


_HOLDER: Final = Holder()
os.register_at_fork(after_in_child=_HOLDER.after_fork_in_child)


def init(
    coordinator: str | Iterable[str] = "127.0.0.1:8091",
    application: str = "default",
    group: str = "default_tx_group",
    *,
    settings: ClientSettings | None = None,
    **options: float,
) -> Client:
    """Connect to a coordinator and make this the process's default client; one that was there is closed.

    It blocks until the coordinator has answered; call it before an event loop runs, or in a thread of it.

    Args:
        coordinator: `"host:port"`, several comma separated, or a list: tried in order.
        application: this program's name at the coordinator; all processes of one service share it.
        group: Seata's transaction service group.
        settings: all knobs at once.
        **options: single knobs, as the fields of `ClientSettings`; they win over `settings`.

    Raises:
        CoordinatorUnavailable: none answered within `connect_timeout_s`.
        ValueError: an address or a setting is wrong.
    """
    client = Client(coordinator, application, group, settings=_with_options(settings or ClientSettings(), options))
    use(client.start())
    return client


def _with_options(settings: ClientSettings, options: Mapping[str, float]) -> ClientSettings:
    known = [field.name for field in fields(ClientSettings)]
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise TypeError(f"init() knows no setting {', '.join(unknown)}; there are {', '.join(known)}")
    changes: dict[str, Any] = dict(options)
    return replace(settings, **changes)


def use(client: Client) -> None:
    """Make a client that exists already the process's default one; one that was there is closed.

    What was declared or opened before (TCC actions, steps, sagas, databases) is served through it from now on.
    """
    earlier = _HOLDER.swap(client)
    try:
        for served in (*_HOLDER.take_waiting(), *_HOLDER.served()):
            served.announce()
    finally:
        if earlier is not None and earlier is not client:
            earlier.close()


def serve_always(served: Served) -> None:
    """From now on each default client that comes serves `served`, too: it is announced when `init` has connected.

    A process that starts again thus serves what an earlier one left, before anything is called in it.
    """
    _HOLDER.note(served)


def serve_next(key: Hashable, served: Served) -> None:
    """The next default client that comes serves `served`, too, whoever else still holds it; of one `key`, the latest.

    For what is there whether or not the object that opened it lives: a database outlives its connections.
    """
    _HOLDER.let_wait(key, served)


def close() -> None:
    """Close the default client, if there is one."""
    client = _HOLDER.swap(None)
    if client is not None:
        client.close()


# A program that just ends still finishes the phase-two work that has reached it.
atexit.register(close)


def default_client(client: Client | None = None) -> Client:
    """`client` if one is given, else the process's default one.

    Raises:
        NotInitialised: there is none.
    """
    found = client or _HOLDER.client
    if found is None:
        raise NotInitialised("troth has no client yet: call troth.init(coordinator='host:port') first, or pass client=")
    return found
