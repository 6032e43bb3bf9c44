"""Django views that a coordinator of DTM's style calls: their barrier, on Django's own connections.

```python
MIDDLEWARE = [..., "troth.integrations.django.dtm.dtm_middleware"]

@csrf_exempt
def withdraw(request):                        # called once, whatever the coordinator repeats
    with guarded() as first:
        if first:
            Account.objects.filter(id="A").update(balance=F("balance") - 30)
    return JsonResponse({})
```
The block is one `atomic(durable=True)`: models, raw SQL and the barrier's row commit together. `check_back` is a view
for messages. `troth dtm init URL` makes the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

try:
    from django.db import connections, transaction  # type: ignore[import-untyped,unused-ignore]
    from django.http import HttpRequest, HttpResponse  # type: ignore[import-untyped,unused-ignore]
except ImportError as error:
    raise ImportError("troth.integrations.django needs Django: pip install 'troth[django]'") from error

from troth.client.barrier import Barrier, Passage, current_barrier, join
from troth.client.context import current_xid
from troth.client.drivers.barrier import Keeping
from troth.client.drivers.resource import NoCoordinator
from troth.client.drivers.running import run
from troth.client.dtm_endpoint import TOLD, Answer, answer, called, checked_back, refused
from troth.client.errors import NotSupported
from troth.client.flow import Query, Rows
from troth.client.modes.barrier import DIALECTS, SqlBarrier
from troth.client.modes.barrier import check_back as check_back_flow
from troth.client.modes.barrier import passes as passes_flow

_DEFAULT = Keeping()


class DtmMiddleware:
    """Binds the barrier of each coordinator's call; BranchRefused, LateTry and Ongoing become 409 and 425."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Serve one request."""
        try:
            barrier = called(request.GET.dict(), _DEFAULT)
        except ValueError as error:
            return _response(refused(str(error)))
        if barrier is None:
            return self.get_response(request)
        with join(barrier):
            return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """A view's exception; None leaves it to Django."""
        told = isinstance(error, TOLD) and called(request.GET.dict(), _DEFAULT) is not None
        return _response(answer(error)) if told else None


dtm_middleware = DtmMiddleware
"""The name for `MIDDLEWARE`, as Django's own are spelled."""


@contextmanager
def guarded(
    *,
    using: str = "default",
    barrier_id: str | None = None,
    barrier: Barrier | None = None,
    keeping: Keeping = _DEFAULT,
) -> Iterator[Passage]:
    """`with guarded() as first:` and in it `if first: …`: one durable `atomic` with the barrier's row.

    Args:
        using: the database's alias.
        barrier_id: a name for this call; None means the next number (see `Barrier`).
        barrier: None means that of the current request.
        keeping: another table than DTM's own.

    Raises:
        LateTry, AlreadyDone: as `Barrier.call`.
        NoTransaction: the request is no coordinator's call.
        NotSupported: a database that the barrier does not know, or a connection under AT in a global transaction.
        RuntimeError: an `atomic` is open already (as with ATOMIC_REQUESTS), or the block did not ask `if first`.
    """
    called_by = barrier or current_barrier()
    rows = _barrier_of(using, keeping)
    with transaction.atomic(using=using, durable=True):
        name = called_by.next_id(barrier_id)
        runs = run(passes_flow(rows, called_by.mark, name), _Executor(using), NoCoordinator())
        passage = Passage(connections[using], runs=runs)
        yield passage
        passage.check_asked()


def check_back(request: HttpRequest) -> HttpResponse:
    """A view: whether the local transaction of a message (`guarded(barrier=message_barrier(gid))`) was committed."""
    gid = request.GET.get("gid", "")
    try:
        with transaction.atomic(durable=True):
            committed = run(
                check_back_flow(_barrier_of("default", _DEFAULT), gid), _Executor("default"), NoCoordinator()
            )
    except Exception as error:  # noqa: BLE001 - every driver has errors of its own; it is logged and answered
        return _response(answer(error))
    return _response(checked_back(committed=committed, gid=gid))


class _Executor:
    """Runs the barrier's queries on Django's connection."""

    def __init__(self, using: str) -> None:
        self._using = using

    def query(self, step: Query) -> Rows:
        with connections[self._using].cursor() as cursor:
            cursor.execute(step.sql.replace("?", "%s"), list(step.parameters))
            rows = [tuple(row) for row in cursor.fetchall()] if cursor.description else []
            return Rows((), rows, cursor.rowcount, None)


def _barrier_of(using: str, keeping: Keeping) -> SqlBarrier:
    wrapper: Any = connections[using]
    if wrapper.vendor not in DIALECTS:
        raise NotSupported(f"there is no barrier on {wrapper.vendor}.", f"There is on {', '.join(DIALECTS)}.")
    if type(wrapper).__module__.startswith("troth.") and current_xid() is not None:
        raise NotSupported("a barrier cannot live on a connection under AT in a global transaction.")
    return SqlBarrier(DIALECTS[wrapper.vendor], keeping.table)


def _response(found: Answer) -> HttpResponse:
    return HttpResponse(found.body, status=found.status, content_type="application/json")
