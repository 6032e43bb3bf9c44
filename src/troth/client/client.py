"""A client of one coordinator: TM and RM of this process."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from troth.client.errors import ClientClosed, VoteNotTaken
from troth.client.flow import ResourceHandler
from troth.client.links.link import Link, LinkFactory, OnRequest, Reply
from troth.client.links.registration import Identity
from troth.client.links.seata import SeataLink
from troth.client.outcome import Verdict, verdict
from troth.client.outstanding import Outstanding
from troth.client.participant import Participant
from troth.client.settings import ClientSettings, parse_addresses
from troth.client.talks import status_in
from troth.wire.seata.enums import BranchType, GlobalStatus
from troth.wire.seata.messages import GlobalReportRequest, GlobalStatusRequest, Message


class Client:
    """Carries messages to a coordinator and serves its phase-two requests. Thread-safe; also a context manager.

    `tell` and its like block the calling thread, whatever runs on it; inside an event loop use the `a…` twins.
    A forked child gets a link of its own at its first use.
    """

    def __init__(
        self,
        coordinator: str | Iterable[str] = "127.0.0.1:8091",
        application: str = "default",
        group: str = "default_tx_group",
        *,
        settings: ClientSettings | None = None,
        link: LinkFactory | None = None,
    ) -> None:
        """`link` makes the way to the coordinator; the default speaks Seata's protocol to `coordinator`."""
        self.settings = settings or ClientSettings()
        self.application = application
        self.group = group
        self._link_factory = link or self._seata_link
        self._addresses = parse_addresses(coordinator)
        self._lock = threading.Lock()
        self._participant = Participant(self.settings)
        self._outstanding = Outstanding()
        self._link: Link | None = None
        self._abandoned: list[Link] = []
        self._closed = False
        os.register_at_fork(after_in_child=_ForkHook(self))

    def _seata_link(self, on_request: OnRequest) -> Link:
        return SeataLink(self._addresses, Identity(self.application, self.group), self.settings, on_request)

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Connect and register; harmless when repeated.

        Raises:
            CoordinatorUnavailable: no coordinator answered within `connect_timeout_s`.
        """
        self._started_link()
        return self

    def close(self) -> None:
        """Finish phase two, then disconnect. Harmless when repeated.

        It waits up to `phase_two_wait_s` for phase two of the transactions that this process has ended, and up to
        `close_wait_s` for what has arrived of others.
        """
        with self._lock:
            self._closed = True
            link, self._link = self._link, None
        if link is None:
            return
        try:
            self._outstanding.wait(self.settings.phase_two_wait_s)
            self._participant.close()
        finally:
            link.close()

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def after_fork_in_child(self) -> None:
        """Drop what is the parent's: its threads are not here, its sockets are closed with nothing sent on them."""
        self._lock = threading.Lock()
        self._participant = self._participant.after_fork()
        self._outstanding = Outstanding()
        if self._link is not None:
            self._link.abandon()
            # Kept for ever: its loop must be neither closed nor collected here (see SeataLink.abandon).
            self._abandoned.append(self._link)
            self._link = None

    def _started_link(self) -> Link:
        link = self._link
        if link is not None:
            return link
        with self._lock:
            if self._closed:
                raise ClientClosed("the client is closed: make a new one with troth.init(...)")
            if self._link is None:
                self._link = self._new_link()
            return self._link

    def _new_link(self) -> Link:
        link = self._link_factory(self._serve)
        link.start()
        resource_ids = self._participant.resource_ids()
        if resource_ids:
            link.ensure_resources(resource_ids)
        return link

    def _serve(self, message: Message, reply: Reply) -> None:
        self._participant.serve(message, self._outstanding.noting(reply))

    # --- messages -----------------------------------------------------------------------------------------------------

    def tell(self, message: Message) -> Message:
        """Send a request and wait for its answer. A refusal (`Failed`) is an answer, not an error.

        Raises:
            CoordinatorUnavailable: not sent, or its answer lost: whether the coordinator acted on it is unknown.
            ClientClosed: the client is closed.
        """
        answer = self._started_link().tell(message)
        self._outstanding.told(message, answer)
        return answer

    async def atell(self, message: Message) -> Message:
        """`tell` for coroutines."""
        link = self._link or await self._astarted_link()
        answer = await link.atell(message)
        self._outstanding.told(message, answer)
        return answer

    async def _astarted_link(self) -> Link:
        return await asyncio.to_thread(self._started_link)

    def register_resource(self, resource_id: str, branch_type: BranchType, handler: ResourceHandler) -> None:
        """Serve phase two of `resource_id` in this process. Does not wait for the coordinator.

        Whatever is told afterwards reaches the coordinator after this registration.
        """
        if not resource_id or "," in resource_id:
            raise ValueError(f"{resource_id!r} can not name a resource: it is empty or has a comma")
        self._participant.add(branch_type, resource_id, handler)
        self._started_link().ensure_resources((resource_id,))

    # --- questions about a global transaction -------------------------------------------------------------------------

    def status(self, xid: str) -> GlobalStatus:
        """How the global transaction stands, as the coordinator knows it (`Finished`: it does not know it any more)."""
        return status_in(self.tell(GlobalStatusRequest(xid=xid)))

    async def astatus(self, xid: str) -> GlobalStatus:
        """`status` for coroutines."""
        return status_in(await self.atell(GlobalStatusRequest(xid=xid)))

    def vote_rollback(self, xid: str) -> None:
        """Make the transaction rollback-only: a later commit of its owner becomes a rollback.

        Raises:
            VoteNotTaken: the coordinator does not honour votes (a Java Seata server does not).
            CoordinatorUnavailable: the vote or its answer was lost.
        """
        _check_vote(xid, self.tell(_vote(xid)))

    async def avote_rollback(self, xid: str) -> None:
        """`vote_rollback` for coroutines."""
        _check_vote(xid, await self.atell(_vote(xid)))


def _vote(xid: str) -> GlobalReportRequest:
    return GlobalReportRequest(xid=xid, global_status=GlobalStatus.Rollbacking)


def _check_vote(xid: str, answer: Message) -> None:
    status = status_in(answer)
    if verdict(status) not in (Verdict.ROLLED_BACK, Verdict.ROLLBACK_FAILED):
        raise VoteNotTaken(xid, status.name)


class _ForkHook:
    """What `os.register_at_fork` keeps for ever must not keep the client."""

    def __init__(self, client: Client) -> None:
        self._client = weakref.ref(client)

    def __call__(self) -> None:
        client = self._client()
        if client is not None:
            client.after_fork_in_child()
