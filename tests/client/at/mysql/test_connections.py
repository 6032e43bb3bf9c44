"""PyMySQL's connections and cursors under AT: local transactions, savepoints, kinds of cursors, lost connections."""

from __future__ import annotations

import pytest
from pymysql.constants import CLIENT
from pymysql.cursors import DictCursor, SSCursor

import troth.at
from troth.client.errors import BranchFailed, LockConflict, NotSupported
from troth.wire.seata.enums import BranchStatus

pytestmark = pytest.mark.engines

XID, OTHER = "10.0.0.1:8091:1", "10.0.0.1:8091:2"


def test_a_local_transaction_is_one_branch(database, in_global):
    before = database.dump()
    connection = database.connect()
    with in_global(XID):
        cursor = connection.cursor()
        cursor.execute("UPDATE account SET balance = 0 WHERE id = 1")
        cursor.execute("INSERT INTO pair VALUES (5, 'q', 1)")
        cursor.execute("DELETE FROM account WHERE id = 3")
        assert database.dump() == before
        connection.commit()
    assert len(database.coordinator.branches) == 1
    (text,) = database.coordinator.lock_texts
    assert text.startswith("account:1,3;")
    assert ";pair:5_q" in text
    database.coordinator.rollback(XID)
    assert database.dump() == before


def test_reads_before_the_first_write_do_no_harm(database, in_global):
    connection = database.connect()
    cursor = connection.cursor()
    cursor.execute("SELECT COUNT(*) FROM account")  # opens a local transaction, since autocommit is off
    with in_global(XID):
        cursor.execute("SELECT balance FROM account WHERE id = 1")
        cursor.execute("UPDATE account SET balance = 0 WHERE id = 1")
        connection.commit()
    assert database.coordinator.lock_texts == ["account:1"]


def test_a_local_transaction_that_wrote_before_the_global_one_is_refused(database, in_global):
    connection = database.connect()
    cursor = connection.cursor()
    cursor.execute("UPDATE account SET note = 'before' WHERE id = 1")
    with in_global(XID), pytest.raises(NotSupported, match="begun before the global one"):
        cursor.execute("UPDATE account SET balance = 0 WHERE id = 1")
    connection.rollback()
    with in_global(XID):
        cursor.execute("UPDATE account SET balance = 0 WHERE id = 1")
        connection.rollback()
    assert database.coordinator.branches == []


def test_rollback_leaves_nothing(database, in_global):
    before = database.dump()
    connection = database.connect()
    with in_global(XID):
        connection.cursor().execute("UPDATE account SET balance = 0")
        connection.rollback()
    assert database.dump() == before
    assert database.coordinator.branches == []


@pytest.mark.parametrize("autocommit", [True, False])
def test_begin_and_savepoints(database, in_global, autocommit):
    before = database.dump()
    connection = database.connect(autocommit=autocommit)
    with in_global(XID):
        cursor = connection.cursor()
        connection.begin()
        cursor.execute("UPDATE account SET balance = 1 WHERE id = 1")
        cursor.execute("SAVEPOINT one")
        cursor.execute("UPDATE account SET balance = 2 WHERE id = 2")
        cursor.execute("ROLLBACK TO SAVEPOINT one")
        cursor.execute("UPDATE account SET balance = 3 WHERE id = 3")
        cursor.execute("RELEASE SAVEPOINT one")
        cursor.execute("COMMIT")
    assert database.coordinator.lock_texts == ["account:1,3"]
    assert [row[0] for row in database.rows("SELECT balance FROM account ORDER BY id")] == [1, 50.5, 3]
    database.coordinator.rollback(XID)
    assert database.dump() == before


def test_a_failed_statement_leaves_the_rest(database, in_global):
    connection = database.connect()
    with in_global(XID):
        cursor = connection.cursor()
        cursor.execute("UPDATE account SET balance = 1 WHERE id = 1")
        with pytest.raises(Exception, match="Duplicate entry"):
            cursor.execute("UPDATE account SET name = 'ann', balance = 9 WHERE id = 2")
        with pytest.raises(Exception, match="not enough arguments"):
            cursor.execute("UPDATE account SET balance = %s WHERE id = %s", (1,))
        connection.commit()
    assert database.coordinator.lock_texts == ["account:1"]
    assert [row[0] for row in database.rows("SELECT balance FROM account ORDER BY id")] == [1, 50.5, -1]


def test_kinds_of_cursors(database, in_global):
    connection = database.connect(cursorclass=DictCursor, autocommit=True)
    with in_global(XID):
        cursor = connection.cursor()
        cursor.execute("INSERT INTO account (name) VALUES (%s) RETURNING id, name", ("carl",))
        assert cursor.fetchall() == ({"id": 4, "name": "carl"},)
        cursor.execute("SELECT name FROM account WHERE id = 4")
        assert cursor.fetchone() == {"name": "carl"}
        with connection.cursor(SSCursor) as unbuffered:
            unbuffered.execute("SELECT id FROM account ORDER BY id")
            assert [row[0] for row in unbuffered.fetchall()] == [1, 2, 3, 4]
            unbuffered.execute("UPDATE account SET note = 'n'")
            assert unbuffered.rowcount == 4


def test_outside_of_a_global_transaction_all_is_the_drivers_own(database):
    with database.connect() as connection, connection.cursor() as cursor:
        assert cursor.execute("UPDATE account SET balance = %s", (1,)) == 3
        cursor.executemany("INSERT INTO pair VALUES (%s, %s, %s)", [(7, "a", 1), (8, "b", 2)])
        assert cursor.rowcount == 2
        cursor.execute("REPLACE INTO pair VALUES (7, 'a', 5)")
        connection.commit()
    assert database.coordinator.branches == []
    assert database.undo_rows() == []


def test_settings_that_change_the_meaning_of_statements_are_refused(database, in_global):
    for setting, reason in (
        ("SET SESSION sql_mode = 'ANSI_QUOTES'", "ANSI_QUOTES"),
        ("SET NAMES latin1", "images need utf8mb4"),
        ("USE mysql", "now uses mysql"),
    ):
        connection = database.connect(autocommit=True)
        connection.cursor().execute(setting)
        with in_global(XID), pytest.raises(NotSupported, match=reason):
            connection.cursor().execute("UPDATE account SET balance = 1")
    with in_global(XID):
        for sql in ("SET NAMES latin1", "SET @@autocommit = 1", "USE mysql"):
            with pytest.raises(NotSupported):
                database.connect().cursor().execute(sql)
        database.connect().cursor().execute("SET @mine = 1, time_zone = '+02:00'")


def test_what_writes_past_at_is_refused_inside(database, in_global):
    connection = database.connect()
    with in_global(XID):
        for call in (
            lambda: connection.query("UPDATE account SET balance = 1"),
            lambda: connection.select_db("mysql"),
            lambda: connection.cursor().callproc("p"),
        ):
            with pytest.raises(NotSupported):
                call()
        connection.cursor().execute("UPDATE account SET balance = 1")
        with pytest.raises(NotSupported):
            connection.autocommit(True)
        with pytest.raises(NotSupported, match="BEGIN would commit"):
            connection.begin()
        connection.ping(reconnect=True)
        connection.rollback()


def test_without_an_undo_table_nothing_is_written(new_database, in_global):
    database = new_database()
    database.run("DROP TABLE undo_log", "CREATE TABLE t (id INT PRIMARY KEY)")
    assert troth.at.check(database.url) == ["there is no table undo_log"]
    with in_global(XID), pytest.raises(NotSupported, match="no table undo_log"):
        database.connect(autocommit=True).cursor().execute("INSERT INTO t VALUES (1)")
    assert database.rows("SELECT * FROM t") == []
    database.run("CREATE TABLE undo_log (branch_id BIGINT, xid VARCHAR(128)) ENGINE = MyISAM")
    problems = troth.at.check(database.url)
    assert "undo_log has no column context" in problems
    assert "undo_log has the engine MyISAM, which cannot roll back" in problems
    assert any("UNIQUE (xid, branch_id)" in problem for problem in problems)
    database.run("DROP TABLE undo_log")
    troth.at.init(database.url)
    assert troth.at.check(database.url) == []


def test_a_foreign_lock_undoes_the_local_transaction(database, in_global):
    with in_global(XID):
        database.connect(autocommit=True).cursor().execute("UPDATE account SET balance = 1 WHERE id = 1")
    connection = database.connect()
    with in_global(OTHER):
        cursor = connection.cursor()
        cursor.execute("UPDATE account SET balance = 2 WHERE id IN (1, 2)")
        with pytest.raises(LockConflict):
            connection.commit()
        with pytest.raises(LockConflict):
            database.connect(autocommit=True).cursor().execute("UPDATE account SET balance = 2 WHERE id = 1")
    assert [row[0] for row in database.rows("SELECT balance FROM account ORDER BY id")] == [1, 50.5, -1]


def test_another_case_of_a_key_is_the_same_key(database, in_global):
    """Under utf8mb4_general_ci 'X' and 'x' are one key: Java's row locks would let both pass."""
    with in_global(XID):
        database.connect(autocommit=True).cursor().execute("DELETE FROM pair WHERE b = 'x'")
        database.connect(autocommit=True).cursor().execute("UPDATE account SET name = 'zoe' WHERE name = 'ann'")
    with in_global(OTHER):
        for sql in (
            "INSERT INTO pair VALUES (1, 'X', 7)",
            "INSERT INTO pair VALUES (2, 'x ', 7)",
            "INSERT INTO account (name) VALUES ('ANN')",
        ):
            with pytest.raises(LockConflict):
                database.connect(autocommit=True).cursor().execute(sql)
    before = database.dump()
    with in_global(OTHER):
        database.connect(autocommit=True).cursor().execute("INSERT INTO pair VALUES (1, 'w', 7)")
    database.coordinator.rollback(OTHER)
    assert database.dump() == before


def test_a_foreign_key_needs_its_parent_free(database, in_global):
    database.run(
        "CREATE TABLE parent (id INT PRIMARY KEY, v INT)",
        "CREATE TABLE child (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES parent (id))",
        "INSERT INTO parent VALUES (1, 1), (2, 2)",
    )
    with in_global(XID):
        database.connect(autocommit=True).cursor().execute("INSERT INTO parent VALUES (3, 3)")
    with in_global(OTHER):
        cursor = database.connect(autocommit=True).cursor()
        cursor.execute("INSERT INTO child VALUES (1, 1)")
        with pytest.raises(LockConflict):
            cursor.execute("INSERT INTO child VALUES (3, 3)")


def kill(database, connection):
    database.run(f"KILL CONNECTION {connection.thread_id()}")


def test_a_connection_lost_before_commit_fails_the_branch(database, in_global):
    before = database.dump()
    connection = database.connect()
    with in_global(XID):
        connection.cursor().execute("UPDATE account SET balance = 1")
        database.coordinator.before_answer = lambda request: kill(database, connection)
        with pytest.raises(BranchFailed):
            connection.commit()
    assert database.coordinator.reports == [BranchStatus.PhaseOne_Failed]
    assert database.dump() == before
    assert [row[2] for row in database.undo_rows()] == [1], "a guard: a commit that comes late must fail"


def test_a_commit_whose_answer_is_lost_is_found_out(database, in_global, monkeypatch):
    connection = database.connect()
    raw_query = connection._raw.query
    lost = []
    with in_global(XID):
        connection.cursor().execute("UPDATE account SET balance = 1")

        def lose_the_answer(sql, unbuffered=False):
            done = raw_query(sql, unbuffered)
            if (sql if isinstance(sql, str) else sql.decode()).endswith("COMMIT"):
                while connection._raw._result.has_next:
                    connection._raw.next_result()
                lost.append(sql)
                connection._raw._force_close()
                raise connection._raw.OperationalError(2013, "Lost connection to MySQL server during query")
            return done

        monkeypatch.setattr(connection._raw, "query", lose_the_answer)
        connection.commit()
    assert len(lost) == 1
    assert database.coordinator.reports == []
    assert [row[2] for row in database.undo_rows()] == [0]
    assert {row[0] for row in database.rows("SELECT balance FROM account")} == {1}


def test_several_statements_in_one_text_only_where_the_user_asked_for_that(database, in_global):
    two = "UPDATE account SET note = 'p'; UPDATE account SET note = 'q'"
    careful = database.connect(autocommit=True)
    for execute in (careful.cursor().execute, careful.query):
        with pytest.raises(careful.ProgrammingError):
            execute(two)
    assert careful.cursor().execute("SELECT '; ' AS x") == 1
    assert not database.rows("SELECT 1 FROM account WHERE note IN ('p', 'q')")
    with in_global(XID):
        careful.cursor().execute("UPDATE account SET note = ';' WHERE id = 1 # ;")
    database.coordinator.rollback(XID)

    asked = database.connect(client_flag=CLIENT.MULTI_STATEMENTS, autocommit=True)
    cursor = asked.cursor()
    cursor.execute(two)
    assert cursor.nextset()
    assert database.rows("SELECT DISTINCT note FROM account") == [("q",)]
    with in_global(XID), pytest.raises(NotSupported, match="several statements"):
        cursor.execute(two)


def test_a_read_between_two_writes(database, in_global):
    """What waits to be sent with the next write must not come behind the user's own read."""
    before = database.dump()
    connection = database.connect()
    with in_global(XID):
        cursor = connection.cursor()
        for number in (1, 2):
            cursor.execute("UPDATE account SET balance = %s WHERE id = 1", (number,))
            cursor.execute("SELECT balance FROM account WHERE id = 1")
            assert cursor.fetchall() == ((number,),)
        cursor.execute("SAVEPOINT mine")
        cursor.execute("DELETE FROM pair")
        cursor.execute("ROLLBACK TO SAVEPOINT mine")
        with connection.cursor(SSCursor) as unbuffered:
            unbuffered.execute("SELECT COUNT(*) FROM pair")
            assert unbuffered.fetchall() == [(3,)]
        connection.commit()
    assert database.coordinator.lock_texts == ["account:1"]
    database.coordinator.rollback(XID)
    assert database.dump() == before


def test_mariadb_urls_are_named_as_javas_other_driver_does(database):
    url = database.url.replace("mysql://", "mariadb://")
    connection = troth.at.connect(url, client=database.coordinator)
    assert connection.resource_id.startswith("jdbc:mariadb://127.0.0.1:")
    connection.close()
    connection = troth.at.connect(f"{database.url}&resource_id=jdbc:mysql://db/shop", client=database.coordinator)
    assert connection.resource_id == "jdbc:mysql://db/shop"
    connection.close()


@pytest.mark.parametrize("option", ["charset=latin1&x=1", "autocommit=perhaps"])
def test_options_that_are_not_known_are_told(database, option):
    with pytest.raises(ValueError, match=r"not known|neither true nor false"):
        troth.at.connect(f"{database.url}&{option}")


def test_found_rows_and_upserts(database, in_global):
    connection = database.connect(client_flag=CLIENT.FOUND_ROWS, autocommit=True)
    before = database.dump()
    with in_global(XID):
        cursor = connection.cursor()
        sql = "INSERT INTO account (name, note) VALUES (%s, 'x') ON DUPLICATE KEY UPDATE note = 'x'"
        cursor.executemany(sql, [("ann",), ("bob",), ("carl",)])
    database.coordinator.rollback(XID)
    assert database.dump() == before
    connection.cursor().execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
    with in_global(XID), pytest.raises(NotSupported, match="found rows"):
        connection.cursor().execute(sql, ("ann",))


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_locking_read_shows_no_row_of_another_global_transaction(database, in_global, autocommit):
    with in_global(XID):
        database.connect(autocommit=True).cursor().execute("UPDATE account SET balance = 1 WHERE id = 1")
    connection = database.connect(autocommit=autocommit, cursorclass=DictCursor)
    with in_global(OTHER):
        cursor = connection.cursor()
        for sql, parameters in (
            ("SELECT balance FROM account WHERE id = %s FOR UPDATE", (1,)),
            ("SELECT COUNT(*) FROM account AS a WHERE a.id < 3 FOR UPDATE", None),
            ("SELECT * FROM account ORDER BY id LIMIT 1 LOCK IN SHARE MODE", None),
            ("SELECT DISTINCT note FROM account LIMIT 1 FOR UPDATE", None),
        ):
            with pytest.raises(LockConflict):
                cursor.execute(sql, parameters)
        assert cursor.execute("SELECT name FROM account WHERE id = 2 FOR UPDATE") == 1
        assert cursor.fetchall() == ({"name": "bob"},)
        assert cursor.execute("SELECT id FROM account ORDER BY id DESC LIMIT 1 FOR UPDATE") == 1
        assert cursor.fetchone() == {"id": 3}
        cursor.execute("SELECT name FROM account WHERE id = 99 FOR UPDATE")
        assert cursor.fetchone() is None
        with pytest.raises(NotSupported, match="more than one table"):
            cursor.execute("SELECT * FROM account a JOIN pair p ON a.id = p.a FOR UPDATE")
        connection.commit()
    database.coordinator.commit(XID)
    with in_global(OTHER):
        cursor.execute("SELECT balance FROM account WHERE id = 1 FOR UPDATE")
        assert cursor.fetchone() == {"balance": 1}
        connection.rollback()
