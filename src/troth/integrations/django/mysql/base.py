"""Django's MySQL backend on connections under AT: PyMySQL in the place of mysqlclient.

Django asks for a module `MySQLdb`; PyMySQL has the same interface (under the MIT licence; mysqlclient is
GPL). It takes that name in this process, unless mysqlclient was imported already.
"""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import quote

try:
    from django.core.exceptions import ImproperlyConfigured  # type: ignore[import-untyped,unused-ignore]
except ImportError as error:
    raise ImportError("troth's Django backends need Django: pip install 'troth[django]'") from error

import pymysql

from troth.client.drivers import pymysql as at_pymysql
from troth.integrations.django.opening import OpensOutside

if "MySQLdb" not in sys.modules:
    pymysql.install_as_MySQLdb()
if sys.modules["MySQLdb"] is not pymysql:
    raise ImproperlyConfigured(
        "This process has imported mysqlclient (MySQLdb), and AT works on PyMySQL. "
        "Let all of its MySQL databases have the ENGINE troth.integrations.django.mysql."
    )

import django.db.backends.mysql.base as django_backend  # type: ignore[import-untyped,unused-ignore]

_IN_URL = frozenset({"host", "port", "user", "password", "database"})
_DEFAULT_PORT = 3306


class DatabaseWrapper(OpensOutside, django_backend.DatabaseWrapper):  # type: ignore[misc,unused-ignore]
    """`django.db.backends.mysql.base.DatabaseWrapper` under AT."""

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """As Django's own, by PyMySQL under AT. Raises NotSupported without a NAME."""
        user, password = (quote(str(conn_params.get(name, "")), "") for name in ("user", "password"))
        place = f"{conn_params.get('host', 'localhost')}:{conn_params.get('port', _DEFAULT_PORT)}"
        options = {name: value for name, value in conn_params.items() if name not in _IN_URL}
        database = quote(conn_params.get("database", ""), "")
        return at_pymysql.connect(f"mysql://{f'{user}:{password}@' if user else ''}{place}/{database}", **options)
