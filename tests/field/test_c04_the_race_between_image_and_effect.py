"""C4: a row that enters the WHERE of an UPDATE while it waits is imaged, or not touched."""

# ruff: noqa: PT012 - what is raised at the end rolls the whole block back

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg
import pytest

import troth

pytestmark = pytest.mark.engines

WAITERS = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity "
    "WHERE wait_event_type = 'Lock' AND datname = current_database()",
    "mysql": "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'",
}
OTHERS = "UPDATE account SET balance = CASE id WHEN 1 THEN 1000 ELSE 77 END WHERE id IN (1, 3)"
MINE = "UPDATE account SET owner = 'u' WHERE balance >= 50"


@contextmanager
def others_write(shop) -> Iterator[None]:
    """Somebody without AT has written rows 1 and 3, and commits when our statement waits for row 1."""
    with closing(shop.plain()) as other, closing(other.cursor()) as cursor:
        cursor.execute("BEGIN")
        cursor.execute(OTHERS)

        def commit():
            deadline = time.monotonic() + 20
            while shop.run(WAITERS[shop.engine]) == [(0,)] and time.monotonic() < deadline:
                time.sleep(0.15)  # MariaDB looks at its transactions anew after 0.1 s without a question
            cursor.execute("COMMIT")

        thread = threading.Thread(target=commit)
        thread.start()
        try:
            yield
        finally:  # also when the block raises: the connection must not be closed under its COMMIT
            thread.join(30)
        assert not thread.is_alive()


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_c04_a_row_that_enters_has_its_image_or_is_not_touched(new_shop, engine, level):
    shop = new_shop(engine)
    connection = shop.connect()
    begin = f"BEGIN ISOLATION LEVEL {level}" if engine == "postgresql" else "BEGIN"
    if engine == "mysql":
        connection.run(f"SET SESSION TRANSACTION ISOLATION LEVEL {level}")
    fails = engine == "postgresql" and level == "REPEATABLE READ"
    changed = 0
    with pytest.raises(ZeroDivisionError), troth.transaction(), others_write(shop):
        connection.run(begin)
        if fails:  # PostgreSQL's own answer to it, passed on
            with pytest.raises(psycopg.errors.SerializationFailure):
                connection.run(MINE)
            connection.rollback()
        else:
            connection.run(MINE)
            connection.commit()
            ((changed,),) = shop.run("SELECT count(*) FROM account WHERE owner = 'u'")
        1 / 0  # noqa: B018 - rolls the whole back
    assert changed >= (0 if fails else 2)
    assert shop.run("SELECT id, owner, balance FROM account ORDER BY id") == [
        (1, "ann", 1000),
        (2, "bob", 50),
        (3, "cid", 77),
    ]
    assert shop.run("SELECT count(*) FROM undo_log WHERE log_status = 0") == [(0,)]
