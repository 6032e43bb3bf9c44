"""PostgreSQL URLs for asyncpg: the same ones as psycopg's, in asyncpg's own arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

try:
    from psycopg.conninfo import conninfo_to_dict
except ImportError as error:
    raise ImportError("phase two on PostgreSQL needs psycopg 3: pip install 'troth[asyncpg]'") from error

from troth.client.drivers.psycopg_place import PostgresUrl
from troth.client.drivers.psycopg_place import parse_url as parse_postgres_url

_SAME = frozenset({"host", "port", "user", "password", "passfile"})
_OTHER = MappingProxyType({"dbname": "database", "sslmode": "ssl", "target_session_attrs": "target_session_attrs"})
_SETTINGS = frozenset({"options", "application_name"})


@dataclass(frozen=True, slots=True)
class AsyncpgUrl:
    """A database: `place` for phase two (psycopg), `arguments` for `asyncpg.connect`."""

    place: PostgresUrl
    arguments: Mapping[str, Any]


def parse_url(url: str) -> AsyncpgUrl:
    """`postgresql+asyncpg://user:password@host:port/database?…`; `ssl` is another word for `sslmode`.

    Raises:
        ValueError: not such a URL, or an option that has no counterpart in asyncpg.
    """
    address, mark, options = url.partition("?")
    renamed = "&".join(f"sslmode={one[4:]}" if one.startswith("ssl=") else one for one in options.split("&"))
    place = parse_postgres_url(f"{address}{mark}{renamed}")
    arguments: dict[str, Any] = {}
    settings: dict[str, str] = {}
    for name, value in conninfo_to_dict(place.conninfo).items():
        if name in _SAME:
            arguments[name] = value
        elif name in _OTHER:
            arguments[_OTHER[name]] = value
        elif name in _SETTINGS:
            settings[name] = str(value)
        elif name == "connect_timeout":
            arguments["timeout"] = float(str(value))
        else:
            raise ValueError(f"the option {name}={value} of a URL has no counterpart in asyncpg")
    if settings:
        arguments["server_settings"] = settings
    return AsyncpgUrl(place, MappingProxyType(arguments))
