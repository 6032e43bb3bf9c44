"""What XA writes, and what it understands: names, facts, versions."""

from __future__ import annotations

import pytest

from troth.client import holder
from troth.client.drivers.xa_resource import XaResource, XaServed
from troth.client.drivers.xa_work import XaWork, check_server
from troth.client.errors import NotSupported
from troth.client.modes.xa import (
    BranchFacts,
    NotYet,
    end_on_postgres,
    mysql_xid,
    parse_gid,
    parse_recovered,
    postgres_gid,
    quoted,
)
from troth.client.modes.xa_mysql import detaches_on_prepare
from troth.client.modes.xa_postgres import PostgresPhaseOne
from troth.wire.seata.enums import BranchType

XID = "192.0.2.2:8091:9854321"


def test_gid_names_the_cell_and_is_read_back() -> None:
    gid = postgres_gid(XID, 77)
    assert gid == "troth/192.0.2.2:8091:9854321/77"
    assert parse_gid(gid) == (XID, 77)
    for foreign in ("9752_abc_def", "troth/", "troth//7", "troth/x/-7", "other/x/7"):
        assert parse_gid(foreign) is None


def test_mysql_xid_is_as_java_seata_writes_it() -> None:
    """Seen in XA RECOVER under Java Seata: gtrid = xid, bqual = -branchId, format 9752."""
    gtrid, bqual, format_id = mysql_xid(XID, 77).split(",")
    assert bytes.fromhex(gtrid[2:-1]) == XID.encode()
    assert bytes.fromhex(bqual[2:-1]) == b"-77"
    assert format_id == "9752"


def test_xa_recover_is_read_back() -> None:
    assert parse_recovered(9752, len(XID), f"{XID}-77") == (XID, 77)
    assert parse_recovered(9752, len(XID), f"{XID}-77".encode()) == (XID, 77)
    assert parse_recovered(1, len(XID), f"{XID}-77") is None
    assert parse_recovered(9752, 3, "abc-77") is None
    assert parse_recovered(9752, len(XID), f"{XID}77") is None
    assert parse_recovered(9752, len(XID), XID) is None


def test_quotes() -> None:
    assert quoted("a'b%c") == "'a''b%%c'"


def test_facts_travel_as_json() -> None:
    for facts in (
        BranchFacts(txid="735"),
        BranchFacts(guard="g", prepared=True),
        BranchFacts(guard="g", ended=True),
        BranchFacts("7", reports=True),
    ):
        assert BranchFacts.parse(facts.text()) == facts
    for foreign in (None, "", "not json", "[]", '{"autoCommit": false}'):
        with pytest.raises(NotYet, match="not a branch of ours"):
            BranchFacts.parse(foreign)


def test_c14_whether_prepare_detaches_is_probed_not_guessed() -> None:
    """C14: MySQL from 8.0.29 on lets go at XA PREPARE only if the variable says so. (Answers as in its manual.)"""
    assert detaches_on_prepare("8.4.3", {"xa_detach_on_prepare": "ON"})
    assert not detaches_on_prepare("8.4.3", {"xa_detach_on_prepare": "OFF"})
    assert not detaches_on_prepare("8.0.28", {})
    assert not detaches_on_prepare("10.11.6-MariaDB-0+deb12u1", {})
    assert not detaches_on_prepare("5.5.5-10.11.6-MariaDB-0+deb12u1", {})
    with pytest.raises(NotSupported, match=r"10\.5"):
        detaches_on_prepare("10.4.32-MariaDB", {})
    with pytest.raises(NotSupported, match=r"5\.7\.7"):
        detaches_on_prepare("5.6.51", {})


def test_a_server_without_prepared_transactions_is_refused_with_the_fix() -> None:
    check_server("64")
    with pytest.raises(NotSupported, match=r"ALTER SYSTEM SET max_prepared_transactions = 100"):
        check_server("0")


def test_a_local_transaction_stays_in_its_global_one() -> None:
    phase_one = PostgresPhaseOne("jdbc:postgresql://h/d")
    phase_one.enter("one")
    with pytest.raises(NotSupported, match="belongs to the global transaction one, but now it is two"):
        phase_one.enter("two")
    with pytest.raises(NotSupported, match="but there is none now"):
        phase_one.enter(None)


@pytest.mark.parametrize("text", ["commit", "ROLLBACK;", " /* x */ END", "-- x\nprepare  transaction 'x'", "ABORT"])
def test_ends_as_texts_are_refused(text: str) -> None:
    work = object.__new__(XaWork)
    with pytest.raises(NotSupported, match="past XA"):
        work.enter(text)


class HasRegistered:
    """A client that counts."""

    application = "shop"  # whatever else this process serves announces itself, too

    def __init__(self) -> None:
        self.resources: list[str] = []

    closed = False

    def register_resource(self, resource_id: str, branch_type: BranchType, handler: object) -> None:
        self.resources.append(resource_id)

    def close(self) -> None:
        self.closed = True


def test_a_database_opened_before_init_is_served_from_init_on() -> None:
    earlier = holder._HOLDER.swap(None)
    try:
        served = XaServed("jdbc:a", XaResource(lambda: pytest.fail("opened"), end_on_postgres), None)
        served.announce()
        clients = [HasRegistered(), HasRegistered()]
        for client in clients:
            holder.use(client)  # type: ignore[arg-type]
        assert [client.resources.count("jdbc:a") for client in clients] == [1, 1]  # others' may be alive, too
        assert clients[0].closed
    finally:
        holder._HOLDER.swap(earlier)
