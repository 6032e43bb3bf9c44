"""Look at a branch, or end it as an operator decides, over a connection of one's own: for branches of Java clients."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from troth.client.drivers.resource import Resource
from troth.client.errors import NotSupported
from troth.wire.seata.private import BranchReport, Inquiry


def inquire(url: str, xid: str, branch_id: int, inquiry: Inquiry) -> BranchReport:
    """Ask the database at `url` (as `troth.at.connect` takes it). What went wrong is in the report.

    Raises:
        NotSupported: a database that AT cannot work on.
        ValueError: not a URL.
        ImportError: the driver is not installed; the text says how to install it.
    """
    return _resource(url).inquire(xid, branch_id, inquiry)


def _resource(url: str) -> Resource:
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ValueError("this is no database URL: write sqlite:////absolute/path or postgresql://host/database")
    name = scheme.partition("+")[0]
    resource: Resource
    if name == "sqlite":
        module = _module("sqlite")
        resource = module.SqliteResource(module.parse_url(url).path)
    elif name in ("postgresql", "postgres"):
        module = _module("psycopg_place")
        resource = module.PostgresResource(module.parse_url(f"postgresql://{rest}"))
    elif name in ("mysql", "mariadb"):
        module = _module("pymysql_places")
        place = module.parse_url(f"{name}://{rest}")
        resource = module.MySqlResource(place, place.arguments({}))
    else:
        raise NotSupported(f"AT on {scheme!r} is not supported by this version.", "Use sqlite, postgresql or mysql.")
    return resource


def _module(name: str) -> Any:
    return import_module(f"troth.client.drivers.{name}")
