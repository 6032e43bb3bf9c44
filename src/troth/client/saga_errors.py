"""What sagas and undoable calls raise; every one is a `TrothError`.

Two sorts of failure of a step are kept apart. *Refused*: the step said no and has left nothing behind, so it is neither
tried again nor compensated. Everything else may have had its effect: it is tried again, and compensated in the end.
"""

from __future__ import annotations

from troth.client.errors import TrothError


class StepRefused(TrothError):
    """Raise it in a step (or name your own errors in `final=`): it failed for good, and has left nothing behind."""


class ApprovalDenied(StepRefused):
    """Who was asked for approval said no; the step was not run."""


class StepFailed(TrothError):
    """A step has failed for good; when this reaches the saga's body, the step itself has been compensated already.

    The same is raised again, from what was recorded, when another process goes on with the saga: catch it by
    `error_type` (the class of the step's own error), not by that error, which is `__cause__` in the first run only.
    """

    def __init__(self, step: str, reason: str, error_type: str, *, refused: bool, attempts: int = 1) -> None:
        tried = "" if attempts == 1 else f" after {attempts} attempts"
        super().__init__(f"{step} {'refused' if refused else 'failed'}{tried}: {error_type}: {reason}")
        self.step = step
        self.reason = reason
        self.error_type = error_type
        self.refused = refused
        self.attempts = attempts


class SagaDeadlinePassed(TrothError):
    """The saga's deadline has passed: what has run is compensated."""


class SagaSuperseded(TrothError):
    """This run stops here: another process has taken the saga over, or it has ended meanwhile. What it recorded counts.

    `attempt` is the number of the newer run, None if the saga has ended: `client.status(xid)` tells how.
    """

    def __init__(self, xid: str, attempt: int, newer: int | None, reason: str = "") -> None:
        what = f"was taken over (attempt {newer}; this run is attempt {attempt})"
        if newer is None:
            what = f"has ended without this run (attempt {attempt}): {reason or 'it takes no records any more'}"
        super().__init__(f"saga {xid} {what}; nothing more is done or compensated here")
        self.xid = xid
        self.attempt = newer


class SagaKnown(TrothError):
    """A saga of this name has been begun before: `xid`. Nothing was begun now; `client.status(xid)` tells how it is."""

    def __init__(self, name: str, xid: str) -> None:
        super().__init__(f"there is a saga named {name!r} already: {xid}")
        self.name = name
        self.xid = xid


class NeedsHuman(TrothError):
    """A compensation has used up its attempts: the saga stands still until somebody has looked.

    `troth inspect XID` shows the frozen branch and why; `troth retry XID` goes on.
    """

    def __init__(self, xid: str, step: str, reason: str) -> None:
        super().__init__(f"needs-human: the compensation of {step} in {xid} failed: {reason}")
        self.xid = xid
        self.step = step
        self.reason = reason


class NotASaga(TrothError):
    """A step was called where there is nobody to compensate it."""
