"""Django's PostgreSQL backend on connections under AT (psycopg 3).

Parameters are bound by the server (as with Django's own option `server_side_binding`), since AT takes statements apart.
`OPTIONS["pool"]` is refused: Django's pool makes its connections by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

try:
    import django.db.backends.postgresql.base as django_backend  # type: ignore[import-untyped,unused-ignore]
    from django.core.exceptions import ImproperlyConfigured  # type: ignore[import-untyped,unused-ignore]
    from django.db.backends.postgresql.psycopg_any import is_psycopg3  # type: ignore[import-untyped,unused-ignore]
except ImportError as error:
    raise ImportError("troth's Django backends need Django: pip install 'troth[django]'") from error

from psycopg.conninfo import make_conninfo

from troth.client.drivers import psycopg as at_psycopg
from troth.integrations.django.opening import OpensOutside

_OF_PSYCOPG = frozenset({"context", "prepare_threshold", "autocommit", "row_factory"})

if not is_psycopg3:
    raise ImproperlyConfigured("troth.integrations.django.postgresql needs psycopg 3: pip install 'troth[postgresql]'")


class _Cursor(at_psycopg.Cursor):
    """A cursor under AT that can do what Django's can."""

    callproc = django_backend.CursorMixin.callproc


class _Psycopg:
    """`psycopg` as Django's backend sees it, with a `connect` of AT's."""

    def __getattr__(self, name: str) -> Any:
        return getattr(django_backend.Database, name)

    def connect(self, **parameters: Any) -> at_psycopg.Connection:
        """Open a connection; `parameters` are those of `psycopg.connect`."""
        parameters.pop("cursor_factory", None)
        own = {name: value for name, value in parameters.items() if name in _OF_PSYCOPG}
        address = {name: value for name, value in parameters.items() if name not in _OF_PSYCOPG and value != ""}
        connection = at_psycopg.Connection.connect(make_conninfo("", **address), **own)
        connection.cursor_factory = _Cursor
        return connection


class DatabaseWrapper(OpensOutside, django_backend.DatabaseWrapper):  # type: ignore[misc,unused-ignore]
    """`django.db.backends.postgresql.base.DatabaseWrapper` under AT."""

    Database = _Psycopg()

    def __init__(self, settings_dict: dict[str, Any], *arguments: Any, **options: Any) -> None:
        given: Mapping[str, Any] = settings_dict.get("OPTIONS") or {}
        if given.get("pool"):
            raise ImproperlyConfigured("OPTIONS['pool'] would pass by AT: use CONN_MAX_AGE, or an external pooler.")
        if given.get("server_side_binding") is False:
            raise ImproperlyConfigured("OPTIONS['server_side_binding'] = False does not work under AT: leave it out.")
        settings_dict["OPTIONS"] = {**given, "server_side_binding": True}
        super().__init__(settings_dict, *arguments, **options)
