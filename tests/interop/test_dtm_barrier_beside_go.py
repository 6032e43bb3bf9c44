"""One barrier table for services in Go and in Python: DTM's published client writes some rows, ours the others."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from dtm_go_app import Door, DtmGo, new_gid

import troth.dtm
from troth.client.drivers.fence_table import connection_to

pytestmark = [pytest.mark.engines, pytest.mark.soak]

KEEPING = troth.dtm.Keeping(table="barrier")
"""Where the Go program has its table."""


class Shared:
    """An account with 100, moved by a service in Go and one in Python behind one barrier: 30 more, announced first."""

    def __init__(self, go: DtmGo) -> None:
        self.program = go
        self.connect = connection_to(go.database)
        (self.account,) = go.accounts(100)
        self.gid = new_gid()

    def in_go(self, op: str, service: str = "bank", **names: str) -> int:
        query = {"gid": self.gid, "branch_id": "01", "op": op, "trans_type": "tcc", **names}
        body = json.dumps({"name": self.account, "amount": 30}).encode()
        url = f"{self.program.url('http', service)}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body), timeout=20) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return int(error.code)

    def in_python(self, op: str) -> None:
        barrier = troth.dtm.Barrier(self.gid, "01", op, "tcc", keeping=KEEPING)
        barrier.call(self.connect, partial(self.work, op))

    def work(self, op: str, connection: Any) -> None:
        balance, frozen = {"try": (0, 30), "confirm": (30, -30), "cancel": (0, -30), "msg": (30, 0)}[op]
        with connection.cursor() as cursor:
            sql = "UPDATE account SET balance = balance + %s, frozen = frozen + %s WHERE name = %s"
            cursor.execute(sql, (balance, frozen, self.account))

    def balances(self) -> tuple[int, int]:
        return self.program.balances(self.account)[0]


@pytest.fixture(scope="module", params=["mariadb", "postgres"])
def go(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DtmGo]:
    new_database: Callable[[], str] = request.getfixturevalue(f"new_{request.param}_database")
    nobody = Door("http://127.0.0.1:9/api/dtmsvr", "127.0.0.1:9")
    program = DtmGo(tmp_path_factory.mktemp("go"), nobody, new_database())
    try:
        yield program.start()
    finally:
        program.close()


@pytest.fixture
def shared(go: DtmGo) -> Shared:
    return Shared(go)


def test_what_go_has_tried_python_does_not_try_again(shared: Shared) -> None:
    assert shared.in_go("try") == 200
    assert shared.balances() == (100, 30)
    shared.in_python("try")
    assert shared.balances() == (100, 30)
    shared.in_python("confirm")
    assert shared.in_go("confirm") == 200
    assert shared.balances() == (130, 0)


def test_what_python_has_tried_go_cancels_once(shared: Shared) -> None:
    shared.in_python("try")
    assert shared.in_go("try") == 200
    assert shared.balances() == (100, 30)
    assert shared.in_go("cancel") == 200
    shared.in_python("cancel")
    assert shared.balances() == (100, 0)


def test_an_empty_cancel_of_one_bars_the_try_of_the_other(shared: Shared) -> None:
    shared.in_python("cancel")
    assert shared.in_go("try") == 200  # DTM's client answers so; it does nothing
    assert shared.balances() == (100, 0)
    shared.gid = new_gid()
    assert shared.in_go("cancel") == 200
    with pytest.raises(troth.dtm.LateTry):
        shared.in_python("try")
    assert shared.balances() == (100, 0)


def test_a_message_of_one_is_answered_for_by_the_other(shared: Shared) -> None:
    barrier = troth.dtm.message_barrier(shared.gid, keeping=KEEPING)
    barrier.call(shared.connect, partial(shared.work, "msg"))
    asked = {"branch_id": "00", "trans_type": "msg"}
    assert shared.in_go("msg", "queryPrepared", **asked) == 200
    assert troth.dtm.check_back(shared.connect, shared.gid, keeping=KEEPING) is True
    shared.gid = new_gid()
    assert shared.in_go("msg", "queryPrepared", **asked) == 409
    with pytest.raises(troth.dtm.LateTry):
        troth.dtm.message_barrier(shared.gid, keeping=KEEPING).call(shared.connect, partial(shared.work, "msg"))
    assert shared.balances() == (130, 0)
