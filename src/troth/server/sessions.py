"""Which channel reaches which resource, and who is the same client (PROTOCOL §5)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol, TypeVar

from troth.core.effects import Call
from troth.core.model import BranchType, LockMode
from troth.wire.seata.messages import Message
from troth.wire.seata.private import BranchInquiryRequest, BranchInquiryResponse

OnReport = Callable[[BranchInquiryResponse | None], None]

_Key = TypeVar("_Key")
_OURS = frozenset({BranchType.SAGA, BranchType.RUNNER})
"""Branches that no client of Seata's could serve."""
_VERSION = re.compile(r"(\d{1,4})(?:\.(\d{1,4}))?", re.ASCII)
_FIRST_WITH_BATCH_RESULTS = (1, 5)


class Link(Protocol):
    """The connection behind a channel."""

    def answer_request(self, request_id: int, message: Message) -> bool:
        """Send an answer to a request that came in over another connection; False if that would be unsafe."""
        ...

    def call_branch(self, call: Call) -> None:
        """Send a phase-two request; exactly one Answered event follows, at the latest when the connection closes."""
        ...

    def tell(self, message: Message) -> None:
        """Send a message that nobody answers."""
        ...

    def inquire(self, message: BranchInquiryRequest, answered: OnReport) -> None:
        """Send an inquiry; `answered` is called once, at the latest when the connection closes (with None)."""
        ...


class Channel:
    """One connection's identity, from its first registration on. `ip` is the peer's, as the socket tells it."""

    __slots__ = (
        "answers_inquiries",
        "application",
        "client_id",
        "group",
        "ip",
        "is_tm",
        "keeps_sagas",
        "link",
        "port",
        "resources",
        "takes_batch_results",
        "version",
        "waits_cold",
    )

    def __init__(self, link: Link, ip: str, port: int) -> None:
        self.link = link
        self.ip = f"[{ip}]" if ":" in ip else ip
        self.port = port
        self.application = ""
        self.group = ""
        self.version = ""
        self.takes_batch_results = False
        """How merged requests are answered: by 121, a child at a time, or by one 60. Never both on one connection."""
        self.is_tm = False
        self.answers_inquiries = False
        """It is one of ours and can show images (wire/seata/private.py)."""
        self.waits_cold = False
        """It has negotiated cold waits (wire/seata/lock_wait.py)."""
        self.keeps_sagas = False
        """It has negotiated what sagas need (wire/seata/saga.py)."""
        self.resources: dict[str, str] = {}
        """Resource → the application that registered it."""
        self.client_id = ""
        """`application:ip:port`, stored with every branch that this channel registers."""

    def introduce(self, application: str | None, group: str | None, version: str | None) -> None:
        """Take over what a registration says; what it leaves out stays as it was, and so does the first version."""
        self.application = application or self.application
        self.group = group or self.group
        if version and not self.version:
            self.version = version
            self.takes_batch_results = knows_batch_results(version)
        self.client_id = f"{self.application}:{self.ip}:{self.port}"


def knows_batch_results(version: str) -> bool:
    """True from 1.5.0 on (PROTOCOL §6); what cannot be read as a version is taken for an old one.

    >>> [knows_batch_results(text) for text in ("0.9.0", "1.4.2", "1.5.0-SNAPSHOT", "2.6.0", "", "latest")]
    [False, False, True, True, False, False]
    """
    match = _VERSION.match(version)
    return match is not None and (int(match[1]), int(match[2] or 0)) >= _FIRST_WITH_BATCH_RESULTS


class ClientName(NamedTuple):
    """A client id in its parts."""

    application: str
    ip: str
    port: int

    @classmethod
    def parse(cls, client_id: str) -> ClientName:
        """The reverse of `Channel.client_id`; an application's name may hold colons, an IPv6 address stands in []."""
        rest, _, port = client_id.rpartition(":")
        if rest.endswith("]"):
            application, _, ip = rest.rpartition(":[")
            ip = f"[{ip}"
        else:
            application, _, ip = rest.rpartition(":")
        return cls(application, ip, int(port) if port.isdecimal() else 0)


class Sessions:
    """Every registered channel. The newest of several equals is preferred: it is the likeliest to be alive."""

    def __init__(self) -> None:
        self._of_resource: dict[str, dict[Channel, None]] = {}
        self._of_client: dict[tuple[str, str], Channel] = {}
        """(client id, resource) → the very channel: where nearly every call goes."""
        self._tms: dict[tuple[str, str], dict[Channel, None]] = {}

    def add_tm(self, channel: Channel) -> None:
        """`channel` has registered as a transaction manager."""
        channel.is_tm = True
        self._tms.setdefault((channel.application, channel.ip), {})[channel] = None

    def add_resources(self, channel: Channel, resource_ids: Iterable[str]) -> list[str]:
        """`channel` serves these from now on; returns those that it has not served before."""
        new = [resource for resource in dict.fromkeys(resource_ids) if resource not in channel.resources]
        for resource in new:
            channel.resources[resource] = channel.application
            self._of_resource.setdefault(resource, {})[channel] = None
            self._of_client[channel.client_id, resource] = channel
        return new

    def remove(self, channel: Channel) -> None:
        """The connection is gone."""
        for resource, application in channel.resources.items():
            _discard(self._of_resource, resource, channel)
            key = (f"{application}:{channel.ip}:{channel.port}", resource)
            if self._of_client.get(key) is channel:  # its port may be in use again before we have seen the end
                del self._of_client[key]
        for key in [key for key, members in self._tms.items() if channel in members] if channel.is_tm else ():
            _discard(self._tms, key, channel)

    def find(self, call: Call) -> Channel | None:
        """Who is to be asked: the branch's own channel, else the nearest relative that serves the resource.

        Same application and ip, then same application, then, for AT only, anybody (PROTOCOL §5). Additions only by who
        has announced lock modes: others would take the deltas in the undo log for images, or leave reservations behind.
        Sagas and their runs only by our own clients.
        """
        exact = self._of_client.get((call.client_id, call.resource_id))
        usual = call.lock_mode is LockMode.EXCLUSIVE and call.branch_type not in _OURS
        if exact is not None and (usual or _understands(exact, call)):
            return exact
        serving = self._of_resource.get(call.resource_id)
        if serving and not usual:
            serving = {channel: None for channel in serving if _understands(channel, call)}
        if not serving:
            return None
        application, ip, _ = ClientName.parse(call.client_id)
        best: Channel | None = None
        best_rank = 3 if call.branch_type is BranchType.AT else 2
        for channel in reversed(serving):
            rank = _distance(channel, channel.resources[call.resource_id], application, ip)
            if rank < best_rank or (best is None and rank == best_rank):
                best, best_rank = channel, rank
        return best

    def find_to_ask(self, client_id: str, resource_id: str) -> Channel | None:
        """Who can show images of `resource_id`: the branch's own channel, else the newest that serves it."""
        exact = self._of_client.get((client_id, resource_id))
        if exact is not None and exact.answers_inquiries:
            return exact
        serving = reversed(self._of_resource.get(resource_id, {}))
        return next((channel for channel in serving if channel.answers_inquiries), None)

    def relatives(self, channel: Channel) -> list[Channel]:
        """The other TM channels of the same client, newest first: one of them may take an answer instead."""
        members = self._tms.get((channel.application, channel.ip), {})
        return [other for other in reversed(members) if other is not channel]

    def one_per_resource(self) -> list[tuple[str, Channel]]:
        """Every served resource with its newest channel."""
        return [(resource, next(reversed(members))) for resource, members in self._of_resource.items()]

    def resources(self) -> dict[str, int]:
        """How many channels serve each resource."""
        return {resource: len(members) for resource, members in self._of_resource.items()}


def _discard(index: dict[_Key, dict[Channel, None]], key: _Key, channel: Channel) -> None:
    members = index[key]
    del members[channel]
    if not members:
        del index[key]


def _understands(channel: Channel, call: Call) -> bool:
    """Whether `channel` has negotiated what this call needs."""
    if call.branch_type in _OURS:
        return channel.keeps_sagas
    return call.lock_mode is LockMode.EXCLUSIVE or channel.waits_cold


def _distance(channel: Channel, served_by: str, application: str, ip: str) -> int:
    """1 same application and ip, 2 same application, 3 a stranger."""
    if served_by != application:
        return 3
    return 1 if channel.ip == ip else 2
