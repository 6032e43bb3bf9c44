"""Two resource ids for one database: rows locked under one id are free under the other, so somebody must be told.

Seata's resource ids are JDBC URLs, and a database has many: by `localhost` or its address, as MySQL or MariaDB, with
the port or without. Names are compared as they are written; nothing is looked up in a DNS.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from urllib.parse import parse_qs

from troth.server.logs import get_logger

log = get_logger("troth.sessions")

_URL = re.compile(
    r"jdbc:(mysql|mariadb|postgresql)://(\[[^\]]+\]|[^/:?,]+)(?::(\d{1,5}))?/([^?;]*)(?:\?(.*))?", re.ASCII
)
_USUAL_PORT = MappingProxyType({"mysql": "3306", "postgresql": "5432"})
_HERE = frozenset({"localhost", "127.0.0.1", "[::1]", "[0:0:0:0:0:0:0:1]"})
_LONGEST = 1024
"""Characters; nobody names a database by more."""
_MOST_IDS = 8
"""Of one database; after so many warnings there is no need for another."""


def database_of(resource_id: str) -> tuple[str, str, str, str, str] | None:
    """Product, host, port, database and schema that a resource id means; None if it is not known what it means.

    >>> database_of("jdbc:mariadb://127.0.0.1/shop") == database_of("jdbc:mysql://LOCALHOST:3306/shop")
    True
    """
    found = _URL.fullmatch(resource_id) if len(resource_id) <= _LONGEST else None
    if found is None:
        return None
    product, host, port, database, options = found.groups()
    product, host = product.replace("mariadb", "mysql"), host.lower()
    schema = ",".join(parse_qs(options or "").get("currentSchema", ()))
    return product, "localhost" if host in _HERE else host, port or _USUAL_PORT[product], database, schema


class SameDatabase:
    """Remembers by which ids databases were served, the latest `most` of them, and warns of a second one once."""

    def __init__(self, most: int = 4096) -> None:
        self._most = most
        self._ids: dict[tuple[str, str, str, str, str], set[str]] = {}

    def note(self, resource_id: str) -> str | None:
        """`resource_id` is served from now on; gives another id of its database, the first time that there is one."""
        database = database_of(resource_id)
        if database is None:
            return None
        ids = self._ids.pop(database, set())
        self._ids[database] = ids  # the latest stands last
        if len(self._ids) > self._most:
            del self._ids[next(iter(self._ids))]
        if resource_id in ids or len(ids) >= _MOST_IDS:
            return None
        other = min(ids, default=None)
        ids.add(resource_id)
        if other is not None:
            log.warning(
                "two resource ids name one database, so their row locks do not exclude each other: let all use one",
                resource=resource_id,
                other=other,
            )
        return other
