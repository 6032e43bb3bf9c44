"""The steps and sagas of this process by their names: who goes on with a saga must find what records name."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from troth.client.saga_run import Saga
    from troth.client.saga_step import Step


class _Declared(Protocol):
    name: str

    @property
    def function(self) -> Callable[..., Any]: ...


D = TypeVar("D", bound=_Declared)


class Book(Generic[D]):
    """Name → step or saga. Thread-safe. What is declared again (a reloaded module) takes its own place.

    `kind` is what errors call them.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._lock = threading.Lock()
        self._entries: dict[tuple[str, object], D] = {}

    def add(self, entry: D, client: object = None) -> None:
        """Names count for each `client` by itself; None: they are the whole process's.

        Raises ValueError: another function has the name.
        """
        place = _place(entry)
        with self._lock:
            there = self._entries.get((entry.name, client))
            if there is not None and _place(there) != place:
                raise ValueError(
                    f"two {self._kind} are named {entry.name!r}: {_place(there)} and {place}; give one another name="
                )
            self._entries[entry.name, client] = entry

    def forget(self, entry: D, client: object = None) -> None:
        """Give its name free (tests declare the same again and again)."""
        with self._lock:
            if self._entries.get((entry.name, client)) is entry:
                del self._entries[entry.name, client]

    def find(self, name: str) -> D | None:
        """The one of that name, if this process has it."""
        return self._entries.get((name, None))

    def entries(self) -> list[D]:
        """All that are declared for the whole process."""
        with self._lock:
            return [entry for (_, client), entry in self._entries.items() if client is None]


def _place(entry: _Declared) -> str:
    function = entry.function
    named = function if hasattr(function, "__qualname__") else type(function)  # a partial, say, has no name
    return f"{named.__module__}.{named.__qualname__}"


BOOK: Final[Book[Step[Any, Any]]] = Book("steps")
SAGAS: Final[Book[Saga[Any, Any]]] = Book("sagas")
