"""What a transactional call does when a global transaction is, or is not, there already: one table, no I/O."""

from __future__ import annotations

from enum import Enum, auto
from types import MappingProxyType
from typing import Final

from troth.client.errors import PropagationRefused


class Propagation(Enum):
    """The names are Seata's (and Spring's)."""

    REQUIRED = "required"
    """Join the transaction that is there, else begin one. The default."""
    REQUIRES_NEW = "requires_new"
    """Begin one of its own; one that is there is set aside meanwhile."""
    NOT_SUPPORTED = "not_supported"
    """Run outside of any; one that is there is set aside meanwhile."""
    SUPPORTS = "supports"
    """Join the one that is there, else run without."""
    NEVER = "never"
    """Refuse to run inside one."""
    MANDATORY = "mandatory"
    """Refuse to run without one."""


class Action(Enum):
    """What to do on entering."""

    BEGIN = auto()
    """Begin a transaction and own its end. The xid that was there comes back on leaving."""
    JOIN = auto()
    """Work inside the transaction that is there; its owner ends it."""
    OUTSIDE = auto()
    """Work without a transaction. The xid that was there comes back on leaving."""
    REFUSE = auto()
    """Raise `PropagationRefused`."""


#                                       (without one,   inside one)
_TABLE: Final = MappingProxyType(
    {
        Propagation.REQUIRED: (Action.BEGIN, Action.JOIN),
        Propagation.REQUIRES_NEW: (Action.BEGIN, Action.BEGIN),
        Propagation.NOT_SUPPORTED: (Action.OUTSIDE, Action.OUTSIDE),
        Propagation.SUPPORTS: (Action.OUTSIDE, Action.JOIN),
        Propagation.NEVER: (Action.OUTSIDE, Action.REFUSE),
        Propagation.MANDATORY: (Action.REFUSE, Action.JOIN),
    }
)


def checked(propagation: object) -> Propagation:
    """`propagation`; TypeError if it is anything else, such as its name."""
    if not isinstance(propagation, Propagation):
        raise TypeError(
            f"propagation is one of troth.Propagation, like troth.Propagation.MANDATORY, not {propagation!r}"
        )
    return propagation


def decide(propagation: Propagation, xid: str | None) -> Action:
    """The action for `propagation` when `xid` is the transaction that is there (None: none is).

    Raises:
        PropagationRefused: the rule forbids the call.
    """
    without, inside = _TABLE[propagation]
    action = without if xid is None else inside
    if action is Action.REFUSE:
        where = "outside of a global transaction" if xid is None else f"inside the global transaction {xid}"
        raise PropagationRefused(f"{propagation.name} forbids to run this {where}")
    return action
