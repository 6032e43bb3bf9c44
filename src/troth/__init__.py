"""troth: work that spans several services and databases ends all done or all undone.

These are the client's public names; each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from troth import at, dtm, xa
    from troth.client.client import Client
    from troth.client.context import XID_HEADER, add_hook, current_xid, join
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
    from troth.client.hooks import TransactionHook
    from troth.client.isolation import Isolation
    from troth.client.modes.saga_graph import Ref
    from troth.client.modes.saga_records import StepContext, UndoContext
    from troth.client.modes.tcc_context import ActionContext
    from troth.client.propagation import Propagation
    from troth.client.saga_errors import (
        ApprovalDenied,
        NeedsHuman,
        SagaDeadlinePassed,
        SagaKnown,
        SagaSuperseded,
        StepFailed,
        StepRefused,
    )
    from troth.client.saga_parallel import Graph, aparallel, parallel
    from troth.client.saga_run import Saga, saga
    from troth.client.saga_scope import current_step
    from troth.client.saga_step import ApprovalRequest, Step, step, undoable
    from troth.client.settings import ClientSettings
    from troth.client.state_machines import AsyncStateMachines, MachineOptions, StateMachineFailed, StateMachines
    from troth.client.suspension import Suspended, suspend
    from troth.client.tcc import tcc
    from troth.client.transaction import Transaction, arollback_only, global_transaction, rollback_only, transaction
    from troth.inprocess import embedded

    __version__: str

_MODULE_OF: Final = MappingProxyType(
    {
        "ActionContext": "troth.client.modes.tcc_context",
        "ApprovalRequest": "troth.client.saga_step",
        "AsyncStateMachines": "troth.client.state_machines",
        "Client": "troth.client.client",
        "ClientSettings": "troth.client.settings",
        "Graph": "troth.client.saga_parallel",
        "Isolation": "troth.client.isolation",
        "MachineOptions": "troth.client.state_machines",
        "Propagation": "troth.client.propagation",
        "Ref": "troth.client.modes.saga_graph",
        "Saga": "troth.client.saga_run",
        "StateMachineFailed": "troth.client.state_machines",
        "StateMachines": "troth.client.state_machines",
        "Step": "troth.client.saga_step",
        "StepContext": "troth.client.modes.saga_records",
        "Suspended": "troth.client.suspension",
        "Transaction": "troth.client.transaction",
        "TransactionHook": "troth.client.hooks",
        "UndoContext": "troth.client.modes.saga_records",
        "XID_HEADER": "troth.client.context",
        "add_hook": "troth.client.context",
        "aparallel": "troth.client.saga_parallel",
        "arollback_only": "troth.client.transaction",
        "close": "troth.client.holder",
        "current_step": "troth.client.saga_scope",
        "current_xid": "troth.client.context",
        "embedded": "troth.inprocess",
        "global_lock": "troth.client.global_lock",
        "global_transaction": "troth.client.transaction",
        "init": "troth.client.holder",
        "join": "troth.client.context",
        "parallel": "troth.client.saga_parallel",
        "rollback_only": "troth.client.transaction",
        "saga": "troth.client.saga_run",
        "step": "troth.client.saga_step",
        "suspend": "troth.client.suspension",
        "tcc": "troth.client.tcc",
        "transaction": "troth.client.transaction",
        "undoable": "troth.client.saga_step",
        "ApprovalDenied": "troth.client.saga_errors",
        "BranchFailed": "troth.client.errors",
        "ClientClosed": "troth.client.errors",
        "CommitFailed": "troth.client.errors",
        "CoordinatorRefused": "troth.client.errors",
        "CoordinatorUnavailable": "troth.client.errors",
        "FloorReached": "troth.client.errors",
        "LockConflict": "troth.client.errors",
        "NeedsHuman": "troth.client.saga_errors",
        "NoTransaction": "troth.client.errors",
        "NotInitialised": "troth.client.errors",
        "NotSupported": "troth.client.errors",
        "OutcomeUnknown": "troth.client.errors",
        "PropagationRefused": "troth.client.errors",
        "RequestTimeout": "troth.client.errors",
        "SagaDeadlinePassed": "troth.client.saga_errors",
        "SagaKnown": "troth.client.saga_errors",
        "SagaSuperseded": "troth.client.saga_errors",
        "StepFailed": "troth.client.saga_errors",
        "StepRefused": "troth.client.saga_errors",
        "TransactionRolledBack": "troth.client.errors",
        "TrothError": "troth.client.errors",
        "VoteNotTaken": "troth.client.errors",
    }
)

__all__ = [
    "XID_HEADER",
    "ActionContext",
    "ApprovalDenied",
    "ApprovalRequest",
    "AsyncStateMachines",
    "BranchFailed",
    "Client",
    "ClientClosed",
    "ClientSettings",
    "CommitFailed",
    "CoordinatorRefused",
    "CoordinatorUnavailable",
    "FloorReached",
    "Graph",
    "Isolation",
    "LockConflict",
    "MachineOptions",
    "NeedsHuman",
    "NoTransaction",
    "NotInitialised",
    "NotSupported",
    "OutcomeUnknown",
    "Propagation",
    "PropagationRefused",
    "Ref",
    "RequestTimeout",
    "Saga",
    "SagaDeadlinePassed",
    "SagaKnown",
    "SagaSuperseded",
    "StateMachineFailed",
    "StateMachines",
    "Step",
    "StepContext",
    "StepFailed",
    "StepRefused",
    "Suspended",
    "Transaction",
    "TransactionHook",
    "TransactionRolledBack",
    "TrothError",
    "UndoContext",
    "VoteNotTaken",
    "__version__",
    "add_hook",
    "aparallel",
    "arollback_only",
    "at",
    "close",
    "current_step",
    "current_xid",
    "dtm",
    "embedded",
    "global_lock",
    "global_transaction",
    "init",
    "join",
    "parallel",
    "rollback_only",
    "saga",
    "step",
    "suspend",
    "tcc",
    "transaction",
    "undoable",
    "xa",
]


def __getattr__(name: str) -> object:
    if name in ("at", "dtm", "xa"):
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
