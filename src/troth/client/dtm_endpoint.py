"""What the integrations for services of DTM's style agree on: which request is a call, and what is answered."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import msgspec

from troth.client.barrier import Barrier
from troth.client.drivers.barrier import Keeping
from troth.client.errors import TransactionRolledBack
from troth.client.modes.dtm_answers import FAILURE, SUCCESS, BranchRefused, Ongoing, answer_to
from troth.client.modes.fence import LateTry

log = logging.getLogger("troth.dtm")

TOLD: Final = (BranchRefused, LateTry, TransactionRolledBack, Ongoing)
"""Errors by which a service tells a coordinator something; all others are failures of the service."""
_NAMES: Final = ("gid", "trans_type", "branch_id", "op")


@dataclass(frozen=True, slots=True)
class Answer:
    """Of an HTTP request; the body is JSON."""

    status: int
    body: bytes

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Type and length."""
        return [("Content-Type", "application/json"), ("Content-Length", str(len(self.body)))]

    @property
    def line(self) -> str:
        """`409 Conflict`."""
        return f"{self.status} {HTTPStatus(self.status).phrase}"


DONE: Final = Answer(HTTPStatus.OK, SUCCESS)


def called(query: Mapping[str, str], keeping: Keeping) -> Barrier | None:
    """The barrier of a coordinator's call; None: the request is none. Raises ValueError: no table could hold it."""
    if not all(query.get(name) for name in _NAMES):
        return None
    return Barrier.from_query(query, keeping=keeping)


def answer(error: BaseException) -> Answer:
    """What is told of `error`; one that the coordinator is not meant to hear is logged."""
    status, body = answer_to(error)
    if not isinstance(error, TOLD):
        log.error("a coordinator's call failed: %s", error, exc_info=error)
    return Answer(status, msgspec.json.encode(body))


def refused(reason: str) -> Answer:
    """A request that no service could serve."""
    return Answer(HTTPStatus.BAD_REQUEST, msgspec.json.encode({"message": reason}))


def checked_back(*, committed: bool, gid: str) -> Answer:
    """The answer to a check-back."""
    if committed:
        return DONE
    body: dict[str, Any] = {"dtm_result": FAILURE, "message": f"the local transaction of {gid} was not committed"}
    return Answer(HTTPStatus.CONFLICT, msgspec.json.encode(body))
