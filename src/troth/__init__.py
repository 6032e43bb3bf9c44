"""troth: work that spans several services and databases ends all done or all undone.

These are the client's public names; each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from troth import at, xa
    from troth.client.client import Client
    from troth.client.context import XID_HEADER, current_xid, join
    from troth.client.errors import (
        BranchFailed,
        ClientClosed,
        CommitFailed,
        CoordinatorRefused,
        CoordinatorUnavailable,
        FloorReached,
        LockConflict,
        NotInitialised,
        NoTransaction,
        NotSupported,
        OutcomeUnknown,
        PropagationRefused,
        RequestTimeout,
        TransactionRolledBack,
        TrothError,
        VoteNotTaken,
    )
    from troth.client.global_lock import global_lock
    from troth.client.holder import close, init
    from troth.client.isolation import Isolation
    from troth.client.modes.tcc_context import ActionContext
    from troth.client.propagation import Propagation
    from troth.client.settings import ClientSettings
    from troth.client.tcc import tcc
    from troth.client.transaction import Transaction, arollback_only, global_transaction, rollback_only, transaction
    from troth.inprocess import embedded

    __version__: str

_MODULE_OF: Final = MappingProxyType(
    {
        "ActionContext": "troth.client.modes.tcc_context",
        "Client": "troth.client.client",
        "ClientSettings": "troth.client.settings",
        "Isolation": "troth.client.isolation",
        "Propagation": "troth.client.propagation",
        "Transaction": "troth.client.transaction",
        "XID_HEADER": "troth.client.context",
        "arollback_only": "troth.client.transaction",
        "close": "troth.client.holder",
        "current_xid": "troth.client.context",
        "embedded": "troth.inprocess",
        "global_lock": "troth.client.global_lock",
        "global_transaction": "troth.client.transaction",
        "init": "troth.client.holder",
        "join": "troth.client.context",
        "rollback_only": "troth.client.transaction",
        "tcc": "troth.client.tcc",
        "transaction": "troth.client.transaction",
        "BranchFailed": "troth.client.errors",
        "ClientClosed": "troth.client.errors",
        "CommitFailed": "troth.client.errors",
        "CoordinatorRefused": "troth.client.errors",
        "CoordinatorUnavailable": "troth.client.errors",
        "FloorReached": "troth.client.errors",
        "LockConflict": "troth.client.errors",
        "NoTransaction": "troth.client.errors",
        "NotInitialised": "troth.client.errors",
        "NotSupported": "troth.client.errors",
        "OutcomeUnknown": "troth.client.errors",
        "PropagationRefused": "troth.client.errors",
        "RequestTimeout": "troth.client.errors",
        "TransactionRolledBack": "troth.client.errors",
        "TrothError": "troth.client.errors",
        "VoteNotTaken": "troth.client.errors",
    }
)

__all__ = [
    "XID_HEADER",
    "ActionContext",
    "BranchFailed",
    "Client",
    "ClientClosed",
    "ClientSettings",
    "CommitFailed",
    "CoordinatorRefused",
    "CoordinatorUnavailable",
    "FloorReached",
    "Isolation",
    "LockConflict",
    "NoTransaction",
    "NotInitialised",
    "NotSupported",
    "OutcomeUnknown",
    "Propagation",
    "PropagationRefused",
    "RequestTimeout",
    "Transaction",
    "TransactionRolledBack",
    "TrothError",
    "VoteNotTaken",
    "__version__",
    "arollback_only",
    "at",
    "close",
    "current_xid",
    "embedded",
    "global_lock",
    "global_transaction",
    "init",
    "join",
    "rollback_only",
    "tcc",
    "transaction",
    "xa",
]


def __getattr__(name: str) -> object:
    if name in ("at", "xa"):
        return import_module(f"troth.{name}")
    if name == "__version__":
        return version("troth")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'troth' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value  # found without this function from now on
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
