"""Phase two against real databases: what it finds when it comes early, late, twice, or in vain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg
import pymysql
import pytest

from troth.client.drivers.psycopg_place import parse_url as parse_postgres_url
from troth.client.drivers.pymysql_places import opened as mysql_opened
from troth.client.drivers.pymysql_places import parse_url as parse_mysql_url
from troth.client.drivers.xa_resource import XaResource, postgres_resource
from troth.client.modes.xa import BranchFacts, end_on_mysql, mysql_xid, postgres_gid
from troth.wire.seata.enums import BranchStatus, BranchType
from troth.wire.seata.messages import BranchCommitRequest, BranchRollbackRequest

pytestmark = pytest.mark.engines

XID = "192.0.2.2:8091:1"


@pytest.fixture(scope="module")
def postgres(new_postgres_database: Callable[[], str]) -> str:
    url = new_postgres_database()
    with psycopg.connect(url, autocommit=True) as raw:
        raw.execute("CREATE TABLE t (a int)")
    return url


@pytest.fixture(scope="module")
def mariadb(new_mariadb_database: Callable[[], str]) -> str:
    url = new_mariadb_database()
    with closing(raw_mysql(url)) as raw:
        raw.cursor().execute("CREATE TABLE t (a int)")
    return url


def raw_mysql(url: str) -> pymysql.connections.Connection:
    return pymysql.connect(**{**parse_mysql_url(url).arguments({}), "autocommit": True})


@pytest.fixture
def mysql_resource(mariadb: str) -> XaResource:
    arguments = parse_mysql_url(mariadb).arguments({})
    return XaResource(lambda: mysql_opened(arguments), end_on_mysql)


def commit(resource: XaResource, branch_id: int, facts: BranchFacts) -> tuple[BranchStatus, str]:
    request = BranchCommitRequest(XID, branch_id, BranchType.XA, "db", facts.text())
    answer = resource.commit([request])[0]
    return answer.branch_status, answer.msg or ""


def rollback(resource: XaResource, branch_id: int, facts: BranchFacts) -> tuple[BranchStatus, str]:
    answer = resource.rollback(BranchRollbackRequest(XID, branch_id, BranchType.XA, "db", facts.text()))
    return answer.branch_status, answer.msg or ""


DONE = BranchStatus.PhaseTwo_Committed, ""
UNDONE = BranchStatus.PhaseTwo_Rollbacked, ""


@pytest.fixture
def local(postgres: str) -> Iterator[tuple[psycopg.Connection, BranchFacts]]:
    with psycopg.connect(postgres) as raw:
        raw.execute("INSERT INTO t VALUES (1)")
        (txid,) = raw.execute("SELECT txid_current_if_assigned()::text").fetchone()  # type: ignore[misc]
        yield raw, BranchFacts(txid=txid)


def test_c13_rollback_before_the_prepare_on_postgres(
    postgres: str, local: tuple[psycopg.Connection, BranchFacts]
) -> None:
    """C13: a rollback that comes before PREPARE is not answered "done", or the branch stays prepared for ever."""
    raw, facts = local
    resource = postgres_resource(parse_postgres_url(postgres))
    status, why = rollback(resource, 1, facts)
    assert status is BranchStatus.PhaseTwo_RollbackFailed_Retryable
    assert "still runs" in why
    raw.execute(f"PREPARE TRANSACTION '{postgres_gid(XID, 1)}'")
    assert rollback(resource, 1, facts) == UNDONE
    assert rollback(resource, 1, facts) == UNDONE  # asked again, since the answer was lost
    status, why = commit(resource, 1, facts)
    assert status is BranchStatus.PhaseTwo_CommitFailed_Unretryable
    assert "is aborted" in why


def test_commit_twice_and_what_was_never_prepared_on_postgres(
    postgres: str, local: tuple[psycopg.Connection, BranchFacts]
) -> None:
    raw, facts = local
    resource = postgres_resource(parse_postgres_url(postgres))
    assert commit(resource, 2, facts)[0] is BranchStatus.PhaseTwo_CommitFailed_Retryable  # still running
    raw.execute(f"PREPARE TRANSACTION '{postgres_gid(XID, 2)}'")
    assert commit(resource, 2, facts) == DONE
    assert commit(resource, 2, facts) == DONE
    status, why = rollback(resource, 2, facts)
    assert status is BranchStatus.PhaseTwo_RollbackFailed_Unretryable
    assert "is committed" in why


def test_a_local_transaction_that_ended_unprepared_is_rolled_back(
    postgres: str, local: tuple[psycopg.Connection, BranchFacts]
) -> None:
    raw, facts = local
    resource = postgres_resource(parse_postgres_url(postgres))
    raw.rollback()
    assert rollback(resource, 3, facts) == UNDONE
    assert commit(resource, 3, facts)[0] is BranchStatus.PhaseTwo_CommitFailed_Unretryable


def test_c13_rollback_between_start_and_end_on_mariadb(mariadb: str, mysql_resource: XaResource) -> None:
    """C13: as long as the guard is held the branch may still be prepared, and the rollback is put off."""
    facts, name = BranchFacts(guard="troth-xa-test-4"), mysql_xid(XID, 4)
    raw = raw_mysql(mariadb)
    cursor = raw.cursor()
    cursor.execute("SELECT GET_LOCK('troth-xa-test-4', 0)")
    assert rollback(mysql_resource, 4, facts)[0] is BranchStatus.PhaseTwo_RollbackFailed_Retryable  # registered only
    cursor.execute(f"XA START {name}")
    cursor.execute("INSERT INTO t VALUES (4)")
    cursor.execute(f"XA END {name}")
    cursor.execute(f"XA PREPARE {name}")
    raw.close()  # which lets go of the branch and, after that, of the guard
    assert rollback(mysql_resource, 4, facts) == UNDONE
    assert rollback(mysql_resource, 4, facts) == UNDONE


def test_commit_on_mariadb_waits_for_the_guard_then_tries_again(mariadb: str, mysql_resource: XaResource) -> None:
    facts, name = BranchFacts(guard="troth-xa-test-5", prepared=True), mysql_xid(XID, 5)
    raw = raw_mysql(mariadb)
    cursor = raw.cursor()
    cursor.execute("SELECT GET_LOCK('troth-xa-test-5', 0)")
    for sql in (f"XA START {name}", "INSERT INTO t VALUES (5)", f"XA END {name}", f"XA PREPARE {name}"):
        cursor.execute(sql)
    raw.close()
    assert commit(mysql_resource, 5, facts) == DONE
    assert commit(mysql_resource, 5, facts) == DONE
    with closing(raw_mysql(mariadb)) as after:
        other = after.cursor()
        other.execute("SELECT a FROM t WHERE a = 5")
        assert other.fetchall() == ((5,),)


def test_commit_of_what_was_never_prepared_is_said_on_mariadb(mysql_resource: XaResource) -> None:
    status, why = commit(mysql_resource, 6, BranchFacts(guard="troth-xa-test-6"))
    assert status is BranchStatus.PhaseTwo_CommitFailed_Unretryable
    assert "never prepared" in why
    assert rollback(mysql_resource, 6, BranchFacts(guard="troth-xa-test-6")) == UNDONE
    assert commit(mysql_resource, 6, BranchFacts(guard="troth-xa-test-6", ended=True)) == DONE


def test_a_branch_of_java_is_left_to_java(mysql_resource: XaResource) -> None:
    request = BranchRollbackRequest(XID, 7, BranchType.XA, "db", None)
    assert mysql_resource.rollback(request).branch_status is BranchStatus.PhaseTwo_RollbackFailed_Retryable


def test_a_database_that_cannot_be_asked_is_asked_again() -> None:
    resource = postgres_resource(parse_postgres_url("postgresql://nobody@127.0.0.1:1/none"))
    status, why = commit(resource, 8, BranchFacts(txid="1"))
    assert status is BranchStatus.PhaseTwo_CommitFailed_Retryable
    assert "OperationalError" in why
