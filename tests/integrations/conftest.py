"""A real client over a link that ends in a list: what the integrations tell the coordinator can be read from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pytest

from troth.client import holder
from troth.client.client import Client
from troth.client.context import current_xid
from troth.client.errors import CoordinatorUnavailable
from troth.client.links.link import OnRequest
from troth.wire.seata.enums import GlobalStatus, ResultCode
from troth.wire.seata.messages import GlobalReportRequest, GlobalReportResponse, Message


@dataclass
class Coordinator:
    """Takes votes. Set `answer` to None to lose every message."""

    votes: list[str] = field(default_factory=list)
    answer: GlobalStatus | None = GlobalStatus.Rollbacking


class RecordingLink:
    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    def start(self) -> None: ...

    def close(self) -> None: ...

    def abandon(self) -> None: ...

    def ensure_resources(self, resource_ids: Iterable[str]) -> None: ...

    def tell(self, message: Message) -> Message:
        assert isinstance(message, GlobalReportRequest)
        assert message.global_status is GlobalStatus.Rollbacking
        self._coordinator.votes.append(message.xid)
        if self._coordinator.answer is None:
            raise CoordinatorUnavailable("the link is down")
        return GlobalReportResponse(result_code=ResultCode.Success, global_status=self._coordinator.answer)

    async def atell(self, message: Message) -> Message:
        return self.tell(message)


@pytest.fixture
def coordinator() -> Iterator[Coordinator]:
    """The coordinator of the process's default client."""
    made = Coordinator()

    def link(_: OnRequest) -> RecordingLink:
        return RecordingLink(made)

    holder.use(Client(application="test", link=link).start())
    yield made
    holder.close()


@pytest.fixture(autouse=True)
def _nothing_leaks() -> Iterator[None]:
    assert current_xid() is None
    yield
    assert current_xid() is None
