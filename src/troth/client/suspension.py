"""To set the global transaction that is there aside, and take it up again."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Self

from troth.client.context import Join, current_xid, is_innermost


class Suspended:
    """A global transaction that this thread or task has set aside. `resume()` takes it up again, also as a `with`.

    Nothing is told to the coordinator: the transaction goes on, and its timeout with it.
    """

    __slots__ = ("_scope", "_where", "xid")

    def __init__(self) -> None:
        self.xid = current_xid()
        """The transaction that was set aside; None: there was none."""
        self._where = _here()
        self._scope: Join | None = Join(None)
        self._scope.__enter__()

    def resume(self) -> None:
        """Work for the transaction again.

        Raises:
            RuntimeError: it was resumed already; or this is not where it was suspended: another thread or task (to
                work for it there: `troth.join(held.xid)`), or inside a scope that was entered since.
        """
        scope = self._scope
        if scope is None:
            raise RuntimeError(f"{self.xid} was resumed already")
        if self._where != _here() or not is_innermost(scope):
            raise RuntimeError(
                f"{self.xid} is resumed where it was suspended, with all scopes left that were entered since; "
                "elsewhere work for it by `with troth.join(held.xid)`"
            )
        self._scope = None
        scope.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._scope is not None:
            self.resume()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


def _here() -> tuple[int, int | None]:
    """This thread and task. (A task that is made inside sees the same scopes, but cannot leave them for its maker.)"""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return threading.get_ident(), None if task is None else id(task)


def suspend() -> Suspended:
    """Set the global transaction of this thread or task aside: `current_xid()` is None until it is resumed.

    ```python
    with troth.suspend():          # or: held = troth.suspend(); …; held.resume()
        audit.write("tried")       # stays, whatever becomes of the transaction
    ```
    """
    return Suspended()
