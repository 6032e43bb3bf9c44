"""Phase two of a TCC action: the coordinator's request becomes a call of its confirm or cancel.

Blocking functions run in the client's worker threads. Async ones run in the application's own event loop, where their
connections belong: the one in which the action was registered or tried last; without one (a program that blocks), in a
loop of their own.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from troth.client.drivers.fence import AsyncDoor, BlockingDoor, Connect
from troth.client.drivers.resource import NoCoordinator
from troth.client.drivers.running import arun, run
from troth.client.errors import NotSupported
from troth.client.flow import Flow, Invoke
from troth.client.modes.fence import Branch, NotNow
from troth.client.modes.tcc import Door, Fencing, Verb, settle
from troth.client.modes.tcc_context import ActionContext
from troth.client.participant import later
from troth.wire.seata.enums import BranchStatus
from troth.wire.seata.messages import (
    BranchCommitRequest,
    BranchCommitResponse,
    BranchRollbackRequest,
    BranchRollbackResponse,
)

log = logging.getLogger(__name__)

_START_WITHIN_S: Final = 5.0
"""How long a blocked event loop is waited for until a confirm is put off."""
_AT_ONCE: Final = 8
"""How many confirms of one action run side by side in a process."""
_LONGEST_REASON: Final = 2000


def is_async(function: Callable[..., Any]) -> bool:
    """Whether it is an `async def`, perhaps behind a partial."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function)


@dataclass(frozen=True, slots=True)
class Functions:
    """The three of an action."""

    try_: Callable[..., Any]
    confirm: Callable[[ActionContext], Any]
    cancel: Callable[[ActionContext], Any]

    def __post_init__(self) -> None:
        if len({is_async(function) for function in (self.try_, self.confirm, self.cancel)}) != 1:
            raise TypeError(f"{self.try_.__name__}: try, confirm and cancel are all async, or none is")

    @property
    def is_async(self) -> bool:
        """Whether they are to be awaited."""
        return is_async(self.try_)


class ActionHandler:
    """`troth.client.flow.ResourceHandler` of one action."""

    def __init__(self, functions: Functions, connect: Connect | None, fencing: Fencing) -> None:
        self._functions = functions
        self._connect = connect
        self._fencing = fencing
        self._loop: asyncio.AbstractEventLoop | None = None

    def remember_loop(self) -> None:
        """Async functions run in the loop that runs here, if one does."""
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            return

    def commit(self, requests: list[BranchCommitRequest]) -> list[BranchCommitResponse]:
        """Confirm each; a branch that is asked for twice at once is confirmed once."""
        branches = list({(request.xid, request.branch_id): request for request in requests}.values())
        if len(branches) == 1:
            return [self._confirm(branches[0])]
        with ThreadPoolExecutor(min(_AT_ONCE, len(branches)), thread_name_prefix="troth-confirm") as threads:
            return list(threads.map(self._confirm, branches))

    def rollback(self, request: BranchRollbackRequest) -> BranchRollbackResponse:
        """Cancel one branch."""
        try:
            self._settle(request, Verb.CANCEL)
        except Exception as error:  # noqa: BLE001 - whatever it is, the coordinator hears of it and asks again
            answer = later(request, _reason(error, f"cancelling branch {request.branch_id} of {request.xid}"))
            assert isinstance(answer, BranchRollbackResponse)
            return answer
        return BranchRollbackResponse(
            xid=request.xid, branch_id=request.branch_id, branch_status=BranchStatus.PhaseTwo_Rollbacked
        )

    def delete_undo_logs(self, save_days: int) -> None:
        """The fence's rows are swept along."""
        if self._connect is not None:
            self.clean_up(timedelta(days=save_days))

    def clean_up(self, older_than: timedelta) -> int:
        """Delete the fence's rows of branches that ended longer ago; how many."""
        if self._functions.is_async:
            return asyncio.run(self.aclean_up(older_than))
        door = BlockingDoor(self._connect)
        return run(_clean_up(door, older_than), door, NoCoordinator())

    async def aclean_up(self, older_than: timedelta) -> int:
        """`clean_up` for coroutines."""
        door = AsyncDoor(self._connect)
        return await arun(_clean_up(door, older_than), door, NoCoordinator())

    def _confirm(self, request: BranchCommitRequest) -> BranchCommitResponse:
        try:
            self._settle(request, Verb.CONFIRM)
        except Exception as error:  # noqa: BLE001 - whatever it is, the coordinator hears of it and asks again
            answer = later(request, _reason(error, f"confirming branch {request.branch_id} of {request.xid}"))
            assert isinstance(answer, BranchCommitResponse)
            return answer
        return BranchCommitResponse(
            xid=request.xid, branch_id=request.branch_id, branch_status=BranchStatus.PhaseTwo_Committed
        )

    def _settle(self, request: BranchCommitRequest | BranchRollbackRequest, verb: Verb) -> None:
        body = self._functions.confirm if verb is Verb.CONFIRM else self._functions.cancel
        if not self._functions.is_async:
            door = BlockingDoor(self._connect)
            run(settle(request, verb, self._fencing, door, body), door, NoCoordinator())
            return

        async def work() -> None:
            door = AsyncDoor(self._connect)
            await arun(settle(request, verb, self._fencing, door, body), door, NoCoordinator())

        self._await(work)

    def _await(self, work: Callable[[], Any]) -> None:
        loop = self._loop
        if loop is None or loop.is_closed() or not loop.is_running():
            asyncio.run(work())
            return
        started = threading.Event()

        async def noticed() -> None:
            started.set()
            await work()

        done = asyncio.run_coroutine_threadsafe(noticed(), loop)
        if not started.wait(_START_WITHIN_S) and done.cancel():
            raise NotNow("the application's event loop is blocked: inside it, end transactions by `async with`")
        done.result()


def _clean_up(door: Door, older_than: timedelta) -> Flow[int]:
    age_s = older_than // timedelta(seconds=1)
    if age_s < 0:
        raise NotSupported("an age is not negative.")
    yield Invoke(door.open)
    try:
        yield Invoke(door.begin, (Branch("", 0, "clean-up"),))
        deleted = yield from door.fence.clean_up(age_s)
        yield Invoke(door.commit)
    finally:
        yield Invoke(door.close)
    return deleted


def _reason(error: Exception, what: str) -> str:
    """For `troth inspect`. What the fence says is no news; what the action or its database says is logged."""
    if isinstance(error, NotNow):
        log.info("%s is put off: %s", what, error)
        return str(error)
    log.warning("%s failed; the coordinator will ask again", what, exc_info=error)
    notes = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
    return f"{type(error).__name__}: {error}{notes}"[:_LONGEST_REASON]
