"""Which store a URL names; SQLite URLs are written as SQLAlchemy writes them."""

from __future__ import annotations

from importlib import import_module

from troth.stores.lease import LeaseTerms
from troth.stores.memory import MemoryStore
from troth.stores.sqlite import SqliteStore
from troth.stores.store import SharedStore, Store, StoreError

KNOWN_FORMS = (
    "memory://, sqlite:///relative/path.db, sqlite:////absolute/path.db, postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
)


def open_store(url: str, terms: LeaseTerms | None = None) -> Store:
    """The store that `url` names, not opened yet: `await store.open()` takes possession.

    `terms` are those of the lease, for a store that several processes share.
    Raises StoreError for a URL of no known form, or if the library for it is not installed.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise StoreError(f"{url!r} is not a store URL; known are {KNOWN_FORMS}")
    match scheme:
        case "memory":
            if rest:
                raise StoreError(f"memory:// has no name or options, so {url!r} cannot be opened")
            return MemoryStore()
        case "sqlite":
            return SqliteStore(_sqlite_path(url, rest))
        case "postgresql" | "postgres":
            return _postgres_store(f"postgresql://{rest}", terms)
        case _:
            raise StoreError(f"no store is known for {scheme!r}; known are {KNOWN_FORMS}")


def _postgres_store(url: str, terms: LeaseTerms | None) -> SharedStore:
    # asyncpg is asked for only by those who use it
    store: SharedStore = import_module("troth.stores.postgres").PostgresStore(url, terms)
    return store


def _sqlite_path(url: str, rest: str) -> str:
    if "?" in rest or "#" in rest:
        raise StoreError(f"options are not taken in a store URL: write {url.partition('?')[0].partition('#')[0]!r}")
    if not rest or rest == "/" or rest == "/:memory:":
        raise StoreError(f"{url!r} is SQLite's in-memory database, which nothing could load again: use memory://")
    if not rest.startswith("/"):
        raise StoreError(f"{url!r} names a host; a file is written sqlite:///relative or sqlite:////absolute")
    return rest[1:]
