"""What every HTTP integration agrees on: how a header carries the xid, and what a joined call that fails means.

The rule, at both ends of a call: a call that carried an xid and ended with a 5xx status or an exception did not do
its part, so the global transaction must not commit, even if somebody on the way swallows the error (a fallback, a
global exception handler). The one who notices *votes*: the coordinator marks the transaction rollback-only and
refuses a later commit. Voting twice is harmless.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from troth.client.client import Client
from troth.client.context import XID_HEADER, current_xid
from troth.client.errors import TrothError
from troth.client.holder import default_client

HYPHENATED_XID_HEADER: Final = "TX-XID"
"""The same header for paths that drop header names with an underscore; the middlewares here accept both spellings."""

log = logging.getLogger("troth.integrations")


class ConflictingXids(ValueError):
    """A request carries two different xids: which transaction it belongs to can not be told."""


def agreed_xid(values: Iterable[str]) -> str | None:
    """The one xid that a request's header values name, or None if there is none.

    Proxies and WSGI servers join repeated headers with a comma, so each value may hold several.

    Raises:
        ConflictingXids: the values differ.
    """
    xids = {part for value in values for part in (piece.strip() for piece in value.split(",")) if part}
    if len(xids) > 1:
        raise ConflictingXids(f"the request carries different xids in {XID_HEADER}: {', '.join(sorted(xids))}")
    return next(iter(xids), None)


def is_failure(status: int) -> bool:
    """Whether an HTTP status says that the called side failed (5xx). A 4xx is an answer: the caller decides."""
    return status >= 500


def note_leak(xid: str | None) -> None:
    """Warn if a request starts on a thread or task that still carries another transaction's xid.

    The request is shielded from it anyhow; the warning helps to find who enters a transaction or `join` without
    leaving it.
    """
    left = current_xid()
    if left is not None and left != xid:
        log.warning("xid %s was left on this thread or task by earlier work; this request does not join it", left)


def vote(client: Client | None, xid: str, reason: str) -> None:
    """Mark `xid` rollback-only because of `reason`; the default is the process's.

    Raises:
        TrothError: the vote was not taken or could not be delivered; a note names the reason for the vote.
    """
    try:
        default_client(client).vote_rollback(xid)
    except TrothError as error:
        error.add_note(f"while marking {xid} rollback-only because {reason}")
        raise
    log.info("%s is marked rollback-only: %s", xid, reason)


async def avote(client: Client | None, xid: str, reason: str) -> None:
    """`vote` for async programs."""
    try:
        await default_client(client).avote_rollback(xid)
    except TrothError as error:
        error.add_note(f"while marking {xid} rollback-only because {reason}")
        raise
    log.info("%s is marked rollback-only: %s", xid, reason)


def note_lost_vote(xid: str, reason: str, error: TrothError) -> None:
    """Log a vote of a *called* service that did not arrive. Its caller still sees the failure itself."""
    log.error(
        "%s could not be marked rollback-only (%s); its caller sees the failed call and must not commit: %s",
        xid,
        reason,
        error,
        exc_info=error,
    )
