"""A local transaction of a service, as all services of the demo have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import troth
from troth.demo.plain import spelled

Run = Callable[..., int]
"""`run(sql, *values)` gives the number of rows."""


@contextmanager
def local_transaction(database: str) -> Iterator[Run]:
    """Statements that are committed together at the end; inside a global transaction, as a branch of it."""
    with closing(troth.at.connect(database)) as connection:
        cursor = connection.cursor()

        def run(sql: str, *values: str | int) -> int:
            cursor.execute(spelled(database, sql), values)
            return int(cursor.rowcount)

        yield run
        connection.commit()  # local: others see it, and it can still be undone
