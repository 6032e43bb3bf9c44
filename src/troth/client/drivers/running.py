"""`run` and `arun`: answer the steps of a flow (see `troth.client.flow`), blocking the thread or awaiting."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import Protocol, TypeVar, runtime_checkable

from troth.client.flow import Coordinator, Flow, Invoke, Later, Pause, Postponed, Query, Rows, Step, Tell

R = TypeVar("R")


class Executor(Protocol):
    """Runs queries on one connection."""

    def query(self, step: Query) -> Rows:
        """Run it and fetch everything."""
        ...


@runtime_checkable
class Postponing(Protocol):
    """An executor (of either kind) that can run a query in one trip with the next one."""

    def postpone(self, step: Query) -> Later:
        """Keep it until the next `query`; the answer is filled in then."""
        ...


class AsyncExecutor(Protocol):
    """Runs queries on one connection of an asyncio driver."""

    async def query(self, step: Query) -> Rows:
        """Run it and fetch everything."""
        ...


def run(flow: Flow[R], executor: Executor, coordinator: Coordinator) -> R:
    """Answer `flow` until it ends, and give its result. What goes wrong at a step is raised inside the flow."""
    try:
        step = next(flow)
        while True:
            try:
                answer = _answer(step, executor, coordinator)
            except BaseException as error:  # noqa: BLE001 - the flow decides; it raises what it does not handle
                step = flow.throw(error)
            else:
                step = flow.send(answer)
    except StopIteration as end:
        result: R = end.value
        return result


async def arun(flow: Flow[R], executor: AsyncExecutor, coordinator: Coordinator) -> R:
    """`run` for coroutines. A cancellation is raised inside the flow too, so that it can clean up before it ends."""
    try:
        step = next(flow)
        while True:
            try:
                answer = await _aanswer(step, executor, coordinator)
            except BaseException as error:  # noqa: BLE001 - the flow decides; it raises what it does not handle
                step = flow.throw(error)
            else:
                step = flow.send(answer)
    except StopIteration as end:
        result: R = end.value
        return result


def _answer(step: Step, executor: Executor, coordinator: Coordinator) -> object:
    match step:
        case Query():
            return executor.query(step)
        case Postponed(postponed):
            return (
                executor.postpone(postponed) if isinstance(executor, Postponing) else Later(executor.query(postponed))
            )
        case Tell(message):
            return coordinator.tell(message)
        case Pause(delay_s):
            time.sleep(delay_s)
            return None
        case Invoke(function, arguments):
            return function(*arguments)


async def _aanswer(step: Step, executor: AsyncExecutor, coordinator: Coordinator) -> object:
    match step:
        case Query():
            return await executor.query(step)
        case Postponed(postponed) if isinstance(executor, Postponing):
            return executor.postpone(postponed)
        case Postponed(postponed):
            return Later(await executor.query(postponed))
        case Tell(message):
            return await coordinator.atell(message)
        case Pause(delay_s):
            await asyncio.sleep(delay_s)
            return None
        case Invoke(function, arguments):
            answer = function(*arguments)
            return await answer if inspect.isawaitable(answer) else answer
