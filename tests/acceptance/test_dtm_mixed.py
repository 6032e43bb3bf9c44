"""A Seata-style AT branch on SQLite and DTM-style TCC branches by URL in one global transaction, both ends."""

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import troth
from dtm_service import BROKEN, DONE, BranchService, DtmClient, service
from fixtures_coordinator import CoordinatorProcess, until

__all__ = ["service"]
pytestmark = pytest.mark.engines


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoordinatorProcess]:
    one = CoordinatorProcess(tmp_path_factory.mktemp("mixed"), "dtm.retry_interval=100ms")
    try:
        one.start()
        with troth.init(one.address, application="shop"):
            yield one
    finally:
        troth.close()
        one.close()


@pytest.fixture
def dtm(process: CoordinatorProcess) -> DtmClient:
    return DtmClient(process.ready["dtm_http_port"])


@pytest.fixture
def stock(tmp_path: Path, process: CoordinatorProcess) -> Path:
    path = tmp_path / "stock.db"
    troth.at.init(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as raw:
        raw.executescript("CREATE TABLE stock (id INTEGER PRIMARY KEY, count INT); INSERT INTO stock VALUES (1, 10)")
    return path


def count(path: Path) -> int:
    with closing(sqlite3.connect(path)) as raw:
        return int(raw.execute("SELECT count FROM stock").fetchone()[0])


class Refused(Exception):
    pass


def purchase(dtm: DtmClient, service: BranchService, path: Path, *, fails: bool) -> str:
    """Take one from the stock (AT), and pay at a service that speaks DTM's TCC; the xid."""
    with closing(troth.at.connect(f"sqlite:///{path}")) as connection, troth.transaction(name="purchase") as tx:
        with connection:
            connection.execute("UPDATE stock SET count = count - 1 WHERE id = 1")
        for number in ("01", "02"):
            urls = {op: service.url(f"/{op}-{number}") for op in ("confirm", "cancel")}
            body = {"gid": tx.xid, "trans_type": "tcc", "branch_id": number, "data": "{}", **urls}
            assert dtm.post("registerBranch", **body) == (200, {"dtm_result": "SUCCESS"})
        assert dtm.status(tx.xid) == "prepared"
        if fails:
            error = Refused(tx.xid)
            raise error
        return tx.xid


def test_both_are_committed(process: CoordinatorProcess, dtm: DtmClient, service: BranchService, stock: Path) -> None:
    service.say("/confirm-02", BROKEN, DONE)
    xid = purchase(dtm, service, stock, fails=False)
    until(lambda: process.transaction(xid)["outcome"])
    assert process.transaction(xid)["status"] == "Committed"
    assert dtm.status(xid) == "succeed"
    assert service.paths(xid) == ["/confirm-02", "/confirm-02", "/confirm-01"]
    assert {called.query["trans_type"] for called in service.calls} == {"tcc"}
    assert count(stock) == 9


def test_both_are_rolled_back(process: CoordinatorProcess, dtm: DtmClient, service: BranchService, stock: Path) -> None:
    with pytest.raises(Refused) as raised:
        purchase(dtm, service, stock, fails=True)
    xid = str(raised.value)
    until(lambda: process.transaction(xid)["outcome"])
    assert process.transaction(xid)["status"] == "Rollbacked"
    assert dtm.status(xid) == "failed"
    assert service.paths(xid) == ["/cancel-02", "/cancel-01"]
    assert count(stock) == 10


def test_a_tcc_branch_holds_up_the_end_and_not_the_row(
    process: CoordinatorProcess, dtm: DtmClient, service: BranchService, stock: Path
) -> None:
    service.say("/confirm-01", BROKEN)
    service.say("/confirm-02", BROKEN)
    xid = purchase(dtm, service, stock, fails=False)
    assert process.transaction(xid)["status"] in ("Committing", "CommitRetrying")
    service.say("/confirm-01", DONE)
    service.say("/confirm-02", DONE)
    other = purchase(dtm, service, stock, fails=False)  # the row was free at the decision
    for each in (xid, other):
        until(lambda each=each: process.transaction(each)["outcome"])
    assert count(stock) == 8


@pytest.mark.parametrize("fails", [False, True])
def test_a_message_is_delivered_if_and_only_if_the_purchase_commits(
    process: CoordinatorProcess, dtm: DtmClient, service: BranchService, *, fails: bool
) -> None:
    service.say("/placed", BROKEN, DONE)
    with pytest.raises(Refused) if fails else contextlib.nullcontext(), troth.transaction(name="purchase") as tx:
        body = {"gid": tx.xid, "trans_type": "msg", "branch_id": "m1", "url": service.url("/placed"), "data": "{}"}
        assert dtm.post("registerBranch", **body)[0] == 200
        if fails:
            raise Refused
    until(lambda: process.transaction(tx.xid)["outcome"])
    assert service.paths(tx.xid) == ([] if fails else ["/placed", "/placed"])
    if not fails:
        assert service.calls[0].query["trans_type"] == "msg"


def test_an_http_branch_of_an_unknown_transaction_is_refused(dtm: DtmClient, process: CoordinatorProcess) -> None:
    body = {"trans_type": "tcc", "branch_id": "01", "confirm": "", "cancel": ""}
    assert dtm.post("registerBranch", gid=f"{process.address}:1", **body)[0] == 409
