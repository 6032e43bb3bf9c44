"""MySQL has no INSERT … RETURNING: that way is run here on MariaDB, as if it had none either."""

from __future__ import annotations

import pytest

from troth.client.errors import NotSupported
from troth.client.sql.dialects.mysql_catalogue import Session

pytestmark = pytest.mark.engines

XID = "10.0.0.1:8091:3"


@pytest.fixture(autouse=True)
def no_returning(monkeypatch):
    monkeypatch.setattr(Session, "returning", property(lambda self: False))


@pytest.mark.parametrize(
    ("sql", "parameters", "lastrowid", "rows"),
    [
        ("INSERT INTO account (name, balance) VALUES ('carl', 5)", None, 4, 1),
        ("INSERT INTO account (name) VALUES (%s), (%s), (%s)", ("a", "b", "c"), 4, 3),
        ("INSERT INTO account VALUES (NULL, 'carl', 5, 'q'), (DEFAULT, 'dora', 6, 'w')", None, 4, 2),
        ("INSERT INTO account (id, name) VALUES (%s, 'carl')", (None,), 4, 1),
        ("INSERT INTO account (id, name) VALUES (80, 'carl'), (%s, 'dora')", (79,), 79, 2),
        ("INSERT account SET name = 'carl', id = 77", None, 77, 1),
        ("INSERT INTO pair VALUES (7, 'q', 1), (7, %s, 2)", ("it's",), 0, 2),
        ("INSERT IGNORE INTO account (name) VALUES ('ann')", None, 0, 0),
        ("INSERT IGNORE INTO account (name) VALUES ('carl')", None, 4, 1),
        ("INSERT INTO account () VALUES ()", None, 4, 1),
    ],
)
def test_inserted_rows_are_found_by_their_keys(database, in_global, sql, parameters, lastrowid, rows):
    before = database.dump()
    cursor = database.connect(autocommit=True).cursor()
    with in_global(XID):
        cursor.execute(sql, parameters)
    assert (cursor.rowcount, cursor.lastrowid) == (rows, lastrowid)
    assert (database.dump() != before) == bool(rows)
    database.coordinator.rollback(XID)
    assert database.dump() == before


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("INSERT INTO account (name) SELECT b FROM pair", "does not tell"),
        ("INSERT IGNORE INTO account (name) VALUES ('ann'), ('carl')", "does not tell which"),
        ("INSERT INTO pair VALUES (7, LEFT(UUID(), 8), 1)", "is not plain"),
        ("INSERT INTO account (id, name) VALUES (NULL, 'x'), (90, 'y')", "some rows give id"),
    ],
)
def test_what_cannot_be_found_is_refused(database, in_global, sql, reason):
    before = database.dump()
    with in_global(XID), pytest.raises(NotSupported, match=reason):
        database.connect(autocommit=True).cursor().execute(sql)
    assert database.dump() == before
    assert database.coordinator.branches == []
