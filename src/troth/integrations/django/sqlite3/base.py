"""Django's SQLite backend on connections under AT. The database is a file: phase two has connections of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

try:
    import django.db.backends.sqlite3.base as django_backend  # type: ignore[import-untyped,unused-ignore]
    from django.db.backends.sqlite3._functions import register as register_functions  # type: ignore[import-untyped,unused-ignore]
except ImportError as error:
    raise ImportError("troth's Django backends need Django: pip install 'troth[django]'") from error

from troth import at
from troth.integrations.django.opening import OpensOutside

_convert_query = django_backend.SQLiteCursorWrapper.convert_query


class DatabaseWrapper(OpensOutside, django_backend.DatabaseWrapper):  # type: ignore[misc,unused-ignore]
    """`django.db.backends.sqlite3.base.DatabaseWrapper` under AT."""

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """As Django's own, by `troth.at.connect`. Raises NotSupported for a database in memory."""
        options = {name: value for name, value in conn_params.items() if name not in ("database", "uri")}
        name = str(conn_params["database"])
        path = name if name == ":memory:" or name.startswith("file:") else str(Path(name).absolute())
        connection = at.connect(f"sqlite:///{path}", **options)
        register_functions(connection)
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA legacy_alter_table = OFF")
        for command in self.init_commands:
            if command.strip():
                connection.execute(command.strip())
        return connection

    def create_cursor(self, name: str | None = None) -> _Cursor:
        """A cursor that takes Django's placeholders."""
        return _Cursor(self.connection.cursor())


class _Cursor:
    """Django's `SQLiteCursorWrapper` around a cursor of AT's: `%s` becomes `?` before AT reads the text."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, query: str, params: Any = None) -> Self:
        """Execute one statement."""
        if params is None:
            self._cursor.execute(query)
        else:
            self._cursor.execute(self._converted(query, params), params)
        return self

    def executemany(self, query: str, param_list: Iterable[Any]) -> Self:
        """Execute one statement for each of `param_list`."""
        sets = list(param_list)
        self._cursor.executemany(self._converted(query, sets[0] if sets else ()), sets)
        return self

    def _converted(self, query: str, params: Any) -> str:
        names = list(params) if isinstance(params, Mapping) else None
        return str(_convert_query(self, query, param_names=names))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._cursor)
