"""A forked child (gunicorn prefork, multiprocessing) gets a link of its own and leaves its parent's alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

import troth
from troth.client.client import Client
from troth.wire.seata.enums import BranchStatus, BranchType, GlobalStatus, ResultCode
from troth.wire.seata.messages import (
    BranchCommitRequest,
    BranchCommitResponse,
    BranchRegisterRequest,
    RegisterRMRequest,
    RegisterTMRequest,
)

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    # The point of these tests is a fork beside threads, which Python 3.12 and later warn about.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


class Database:
    """Tells which process served a branch."""

    def commit(self, requests: list[BranchCommitRequest]) -> list[BranchCommitResponse]:
        return [
            BranchCommitResponse(
                result_code=ResultCode.Failed,
                msg=str(os.getpid()),
                xid=r.xid,
                branch_id=r.branch_id,
                branch_status=BranchStatus.PhaseTwo_CommitFailed_Retryable,
            )
            for r in requests
        ]


class Child:
    """Runs a function in a forked process; `release` lets it end."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._from_child, to_parent = os.pipe()
        from_parent, self._to_child = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._be_child(work, to_parent, from_parent)
        os.close(to_parent)
        os.close(from_parent)

    def _be_child(self, work: Callable[[], object], to_parent: int, from_parent: int) -> None:
        status = 1
        try:
            os.close(self._to_child)
            os.write(to_parent, json.dumps(work()).encode())
            os.close(to_parent)
            os.read(from_parent, 1)
            status = 0
        finally:
            os._exit(status)

    def result(self) -> Any:
        data = b""
        while chunk := os.read(self._from_child, 65536):
            data += chunk
        os.close(self._from_child)
        assert data, "the child failed"
        return json.loads(data)

    def release(self) -> None:
        os.close(self._to_child)
        assert os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]) == 0


def test_a_child_registers_anew_and_the_parent_goes_on(coordinator: Any, client: Client) -> None:
    client.register_resource("db", BranchType.AT, Database())
    client.tell(BranchRegisterRequest(xid="x", branch_type=BranchType.AT, resource_id="db"))
    parents = list(coordinator.peers)

    def work() -> list[str]:
        with troth.transaction(client=client) as tx:
            return [tx.xid]

    child = Child(work)
    assert child.result() == ["127.0.0.1:8091:1"]
    assert [m.resource_ids for m in coordinator.wait_for(RegisterRMRequest, 2)] == ["db", "db"]
    assert len(coordinator.wait_for(RegisterTMRequest, 2)) == 2
    assert client.status("x") is GlobalStatus.Begin
    assert all(peer in coordinator.peers for peer in parents)

    mine = coordinator.ask(BranchCommitRequest("x", 1, BranchType.AT, "db"), peer=parents[1])
    assert mine.result(10).msg == str(os.getpid())
    its = coordinator.ask(BranchCommitRequest("x", 2, BranchType.AT, "db"), peer=coordinator.rm())
    assert its.result(10).msg == str(child.pid)
    child.release()
    assert client.status("x") is GlobalStatus.Begin


def test_a_child_that_never_uses_the_client_does_not_hold_the_parents_sockets(coordinator: Any, client: Client) -> None:
    child = Child(lambda: "idle")
    assert child.result() == "idle"
    assert client.status("x") is GlobalStatus.Begin
    client.close()
    # The coordinator sees the end only if the child has no copy of the descriptor.
    for thread in coordinator.threads_of_peers():
        thread.join(10)
        assert not thread.is_alive()
    assert len(coordinator.of(RegisterTMRequest)) == 1
    child.release()


def test_the_default_client_survives_a_fork_of_a_fork(coordinator: Any) -> None:
    troth.init(coordinator.address)

    @troth.global_transaction
    def work() -> str | None:
        return troth.current_xid()

    def grandchild_too() -> list[str | None]:
        own = work()
        grandchild = Child(work)
        below = grandchild.result()
        grandchild.release()
        return [own, below, work()]

    child = Child(grandchild_too)
    assert len(set(child.result())) == 3
    child.release()
    assert work() is not None
    troth.close()


def test_closing_in_the_child_leaves_the_parent_alone(coordinator: Any, client: Client) -> None:
    def work() -> bool:
        client.close()
        return client.closed

    child = Child(work)
    assert child.result() is True
    child.release()
    assert client.status("x") is GlobalStatus.Begin
    assert len(coordinator.of(RegisterTMRequest)) == 1
