"""Old undo logs, guard rows above all, do not stay for ever: one client per resource is told to delete them."""

from collections.abc import Callable

import pytest

from fixtures_coordinator import CoordinatorProcess, WireClient
from troth.wire.seata.enums import BranchType, MessageType
from troth.wire.seata.messages import RegisterRMRequest, UndoLogDeleteRequest

pytestmark = pytest.mark.engines


def test_every_resource_is_told_again_and_again(new_coordinator: Callable[..., CoordinatorProcess]) -> None:
    settings = ("undo_log.first_sweep=1s", "undo_log.sweep=100ms", "undo_log.save_days=3")
    process = new_coordinator(*settings).start()
    with WireClient(process.ready["port"]) as client:
        client.answer_to(client.post(RegisterRMRequest("2.3.0", "shop", "default_tx_group", None, "jdbc:a,jdbc:b")))
        told = [client.receive() for _ in range(4)]
    assert {frame.message_type for frame in told} == {MessageType.ONEWAY}
    assert [frame.body for frame in told] == 2 * [
        UndoLogDeleteRequest(BranchType.AT, resource, 3) for resource in ("jdbc:a", "jdbc:b")
    ]
