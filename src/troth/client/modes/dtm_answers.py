"""What a branch of DTM's style says by its answer, read and written: done, refused, not yet, or nothing that counts."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from troth.client.errors import BranchFailed, TransactionRolledBack, TrothError
from troth.client.modes.fence import LateTry

FAILURE: Final = "FAILURE"
ONGOING: Final = "ONGOING"


class BranchRefused(BranchFailed):
    """A branch says that it cannot do its part, and has done nothing: raise it in a service to answer 409."""


class BranchUnanswered(BranchFailed):
    """A branch did not say whether it has done its part: no answer came, or one that says neither."""


class Ongoing(TrothError):
    """Not done yet; whoever asked asks again: raise it in a service to answer 425."""


def check_answer(who: str, status: int, body: str) -> None:
    """Judge a branch's answer in DTM's order: 425, 409, anything but 200.

    Raises:
        Ongoing, BranchRefused, BranchUnanswered.
    """
    text = f"{who} answered {status}: {body[:300]}"
    if status == HTTPStatus.TOO_EARLY or ONGOING in body:
        raise Ongoing(text)
    if status == HTTPStatus.CONFLICT or FAILURE in body:
        raise BranchRefused(text)
    if status != HTTPStatus.OK:
        raise BranchUnanswered(text)


def answer_to(error: BaseException) -> tuple[int, dict[str, str]]:
    """Status and JSON body by which a service tells `error` to a coordinator of DTM's style."""
    if isinstance(error, BranchRefused | LateTry | TransactionRolledBack):
        return HTTPStatus.CONFLICT, {"dtm_result": FAILURE, "message": str(error)}
    if isinstance(error, Ongoing):
        return HTTPStatus.TOO_EARLY, {"dtm_result": ONGOING, "message": str(error)}
    text = f"{type(error).__name__}: {error}".replace(FAILURE, "failure").replace(ONGOING, "ongoing")
    return HTTPStatus.INTERNAL_SERVER_ERROR, {"message": text}


SUCCESS: Final = b'{"dtm_result":"SUCCESS"}'
