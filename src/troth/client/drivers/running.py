"""`run` and `arun`: answer the steps of a flow (see `troth.client.flow`), blocking the thread or awaiting."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from troth.client.flow import Coordinator, Flow, Invoke, Later, Pause, Postponed, Query, Rows, Tell

R = TypeVar("R")


class Executor(Protocol):
    """Runs queries on one connection."""

    def query(self, step: Query) -> Rows:
        """Run it and fetch everything."""
        ...


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
    query, postpone = executor.query, _postpone(executor)
    try:
        step = next(flow)
        while True:
            try:
                answer: object
                if isinstance(step, Query):
                    answer = query(step)
                elif isinstance(step, Postponed):
                    answer = Later(query(step.query)) if postpone is None else postpone(step.query)
                else:
                    answer = _answer(step, coordinator)
            except BaseException as error:  # noqa: BLE001 - the flow decides; it raises what it does not handle
                step = flow.throw(error)
            else:
                step = flow.send(answer)
    except StopIteration as end:
        result: R = end.value
        return result


async def arun(flow: Flow[R], executor: AsyncExecutor, coordinator: Coordinator) -> R:
    """`run` for coroutines. A cancellation is raised inside the flow too, so that it can clean up before it ends."""
    query, postpone = executor.query, _postpone(executor)
    try:
        step = next(flow)
        while True:
            try:
                answer: object
                if isinstance(step, Query):
                    answer = await query(step)
                elif isinstance(step, Postponed):
                    answer = Later(await query(step.query)) if postpone is None else postpone(step.query)
                else:
                    answer = await _aanswer(step, coordinator)
            except BaseException as error:  # noqa: BLE001 - the flow decides; it raises what it does not handle
                step = flow.throw(error)
            else:
                step = flow.send(answer)
    except StopIteration as end:
        result: R = end.value
        return result


def _postpone(executor: object) -> Callable[[Query], Later] | None:
    """`Postponing.postpone`, where the executor has it. (A check of the protocol takes as long as a statement.)"""
    found: Callable[[Query], Later] | None = getattr(executor, "postpone", None)
    return found


def _answer(step: Tell | Pause | Invoke, coordinator: Coordinator) -> object:
    match step:
        case Tell(message):
            return coordinator.tell(message)
        case Pause(delay_s):
            time.sleep(delay_s)
            return None
        case Invoke(function, arguments):
            return function(*arguments)


async def _aanswer(step: Tell | Pause | Invoke, coordinator: Coordinator) -> object:
    match step:
        case Tell(message):
            return await coordinator.atell(message)
        case Pause(delay_s):
            await asyncio.sleep(delay_s)
            return None
        case Invoke(function, arguments):
            answer = function(*arguments)
            return await answer if inspect.isawaitable(answer) else answer
