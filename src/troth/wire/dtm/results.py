"""How a request to DTM's door, or a call to a branch, can end: the words, the HTTP statuses and the JSON-RPC codes.

A door turns a `Refused` into its own twin: HTTP by `status`, JSON-RPC by `rpc_code`, gRPC by `grpc_code`.
"""

from __future__ import annotations

from enum import Enum

SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
ONGOING = "ONGOING"

_OK = 200
_CONFLICT = 409
_TOO_EARLY = 425
_RPC_FAILURE = -32901
_RPC_ONGOING = -32902
_RPC_INTERNAL = -32603


class Refused(Exception):
    """A request that is not done; the text says why."""

    status = 500
    rpc_code = _RPC_INTERNAL
    grpc_code = "UNKNOWN"
    result: str | None = None
    """The word of `dtm_result`, where there is one."""


class Failure(Refused):
    """The answer is no: the transaction does not stand as the request needs it, or it has been rolled back."""

    status = _CONFLICT
    rpc_code = _RPC_FAILURE
    grpc_code = "ABORTED"
    result = FAILURE


class Ongoing(Refused):
    """Not decided yet: ask again."""

    status = _TOO_EARLY
    rpc_code = _RPC_ONGOING
    grpc_code = "FAILED_PRECONDITION"
    result = ONGOING


class BadInput(Refused):
    """The request cannot be meant so."""

    status = 400
    grpc_code = "INVALID_ARGUMENT"


class NotFound(Refused):
    """What the request names is not there."""

    status = 404
    grpc_code = "NOT_FOUND"


class Busy(Refused):
    """Not now: the coordinator is stopping, does not lead, or has too much to do."""

    status = 503
    grpc_code = "UNAVAILABLE"


class Verdict(Enum):
    """What the answer of a branch means."""

    DONE = "done"
    REFUSED = "refused"
    ONGOING = "ongoing"
    RETRY = "retry"


def http_verdict(status: int, body: bytes) -> Verdict:
    """In DTM's order: ongoing by 425 or the word, failure by 409 or the word, success by 200 only, else again.

    >>> http_verdict(200, b"{}"), http_verdict(204, b""), http_verdict(500, b"FAILURE")
    (<Verdict.DONE: 'done'>, <Verdict.RETRY: 'retry'>, <Verdict.REFUSED: 'refused'>)
    """
    if status == _TOO_EARLY or b"ONGOING" in body:
        return Verdict.ONGOING
    if status == _CONFLICT or b"FAILURE" in body:
        return Verdict.REFUSED
    return Verdict.DONE if status == _OK else Verdict.RETRY


def rpc_verdict(code: int | None) -> Verdict:
    """Of a JSON-RPC error code; None where there is no error."""
    if code is None:
        return Verdict.DONE
    if code == _RPC_FAILURE:
        return Verdict.REFUSED
    return Verdict.ONGOING if code == _RPC_ONGOING else Verdict.RETRY
