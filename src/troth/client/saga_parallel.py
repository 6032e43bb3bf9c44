"""Steps side by side: `parallel` for branches of code, `Graph` for steps that wait for each other.

Each branch names its steps by itself, so that the names do not depend on which thread was faster: who goes on with the
saga finds every record again.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Final, TypeVar

from troth.client.modes.saga_graph import Order, Ref, filled_in, names_in
from troth.client.saga_scope import current_scope, in_branch
from troth.client.saga_step import Step

T = TypeVar("T")

_AT_ONCE: Final = 32


def parallel(*branches: Callable[[], T], at_once: int = _AT_ONCE) -> list[T]:
    """Run each branch in a thread; their results, in order. It waits for all before it raises what one raised."""
    names = _branch_names(len(branches))
    with ThreadPoolExecutor(max(1, min(at_once, len(branches))), thread_name_prefix="troth-parallel") as threads:
        futures = [_submit(threads, name, branch) for name, branch in zip(names, branches, strict=True)]
        wait(futures)
    return [future.result() for future in futures]


async def aparallel(*branches: Callable[[], Awaitable[T]]) -> list[T]:
    """`parallel` for coroutine functions, as tasks."""
    names = _branch_names(len(branches))
    tasks = [asyncio.ensure_future(_abranch(name, branch)) for name, branch in zip(names, branches, strict=True)]
    if tasks:
        await asyncio.wait(tasks)
    return [task.result() for task in tasks]


def _branch_names(count: int) -> list[str]:
    scope = current_scope()
    if scope is None:
        return [""] * count
    place = scope.next_key("parallel")
    return [f"{place}/{number}" for number in range(1, count + 1)]


def _submit(threads: ThreadPoolExecutor, name: str, branch: Callable[[], T]) -> Future[T]:
    def run() -> T:
        with in_branch(name):
            return branch()

    return threads.submit(contextvars.copy_context().run, run)


async def _abranch(name: str, branch: Callable[[], Awaitable[T]]) -> T:
    with in_branch(name):
        return await branch()


class Graph:
    """Steps by name, each after those whose results it wants (`Ref("name")` among its arguments) or that it names.

    ```python
    graph = Graph()
    graph.add("flight", book_flight, customer)
    graph.add("hotel", book_hotel, customer)
    graph.add("pay", charge, customer, Ref("flight"), after=("hotel",))
    results = graph.run()                       # {"flight": …, "hotel": …, "pay": …}; `await graph.arun()`
    ```
    """

    def __init__(self) -> None:
        self._nodes: dict[str, tuple[Step[Any, Any], tuple[Any, ...], dict[str, Any]]] = {}
        self._after: dict[str, frozenset[str]] = {}

    def add(self, name: str, step: Step[Any, Any], /, *args: Any, after: tuple[str, ...] = (), **kwargs: Any) -> Ref:
        """A node; a `Ref` to its result. Raises ValueError: the name is taken."""
        if name in self._nodes:
            raise ValueError(f"there is a node {name!r} already")
        self._nodes[name] = (step, args, kwargs)
        self._after[name] = frozenset(after) | names_in(args) | names_in(kwargs)
        return Ref(name)

    def order(self) -> Order:
        """Raises ValueError: a cycle, or a name that is no node."""
        return Order(self._after)

    @property
    def after(self) -> dict[str, frozenset[str]]:
        """What each node waits for."""
        return dict(self._after)

    def steps(self) -> dict[str, Step[Any, Any]]:
        """The step of each node."""
        return {name: node[0] for name, node in self._nodes.items()}

    def run(self, at_once: int = _AT_ONCE) -> dict[str, Any]:
        """Run the steps in threads. What the first that failed raised is raised when those under way have ended."""
        order, results = self.order(), dict[str, Any]()
        failed: BaseException | None = None
        under_way: dict[Future[Any], str] = {}
        with ThreadPoolExecutor(at_once, thread_name_prefix="troth-graph") as threads:
            while True:
                for name in order.take_ready():
                    call = self._call(name, results)
                    under_way[threads.submit(contextvars.copy_context().run, call)] = name
                if not under_way:
                    break
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    failed = failed or self._ended(under_way.pop(future), future, order, results)
        if failed is not None:
            raise failed
        return results

    async def arun(self) -> dict[str, Any]:
        """`run` for async steps, as tasks."""
        order, results = self.order(), dict[str, Any]()
        failed: BaseException | None = None
        under_way: dict[asyncio.Future[Any], str] = {}
        while True:
            for name in order.take_ready():
                under_way[asyncio.ensure_future(self._call(name, results)())] = name
            if not under_way:
                break
            done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                failed = failed or self._ended(under_way.pop(future), future, order, results)
        if failed is not None:
            raise failed
        return results

    def _call(self, name: str, results: dict[str, Any]) -> Callable[[], Any]:
        step, args, kwargs = self._nodes[name]
        filled, named = filled_in(args, results), filled_in(kwargs, results)
        return lambda: step.keyed(name)(*filled, **named)

    def _ended(self, name: str, future: Any, order: Order, results: dict[str, Any]) -> BaseException | None:
        error: BaseException | None = future.exception()
        if error is None:
            results[name] = future.result()
            order.ended(name)
        else:
            order.stop()
        return error
