"""A client of DTM's style: transactions whose branches are URLs, over HTTP, blocking or async.

One set of classes serves both: on a client of `connect` each method does its work and returns; on one of
`connect_async` it gives an awaitable, and `with` is `async with`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any

from troth.client.context import current_xid
from troth.client.drivers.barrier import Keeping
from troth.client.dtm_speaker import AsyncSpeaker, BlockingSpeaker, new_gid
from troth.client.dtm_submitted import Message, Saga
from troth.client.dtm_tcc import Tcc, Xa
from troth.client.dtm_workflow import Workflow, Workflows
from troth.client.errors import NoTransaction
from troth.client.links.dtm_http import DEFAULT_TIMEOUT, AsyncHttpLink, HttpLink
from troth.client.modes.dtm import Kind, Options, payload_text, query, register
from troth.client.modes.dtm_xa import ended, prepared

if TYPE_CHECKING:
    import httpx


class DtmClient:
    """Begins transactions at one coordinator: troth's, or DTM's own.

    Every transaction takes a `gid`, its name (None makes one), and `options`.
    """

    def __init__(self, speaker: BlockingSpeaker | AsyncSpeaker) -> None:
        self._speaker = speaker
        self._workflows = Workflows(speaker)

    @property
    def is_async(self) -> bool:
        """Whether its methods give awaitables."""
        return self._speaker.is_async

    def saga(self, gid: str | None = None, *, options: Options | None = None, concurrent: bool = False) -> Saga:
        """A saga, empty: `add` its steps, then `submit`."""
        return Saga(self._speaker, gid or new_gid(), options or Options(), concurrent=concurrent)

    def message(self, gid: str | None = None, *, options: Options | None = None, concurrent: bool = False) -> Message:
        """A message: `add` its receivers, then `do`, or `submit`. Concurrent: a receiver does not wait for another."""
        return Message(self._speaker, gid or new_gid(), options or Options(), concurrent=concurrent)

    def tcc(self, gid: str | None = None, *, options: Options | None = None, wait: bool = False) -> Tcc:
        """`with client.tcc() as tcc: tcc.call(…)`. `wait`: the block ends when all branches are confirmed."""
        return Tcc(self._speaker, gid or new_gid(), options or Options(), wait=wait)

    def xa(self, gid: str | None = None, *, options: Options | None = None, wait: bool = False) -> Xa:
        """`with client.xa() as xa: xa.call(…)`. `wait`: the block ends when all branches are committed."""
        return Xa(self._speaker, gid or new_gid(), options or Options(), wait=wait)

    def join_tcc(self, query_parameters: Mapping[str, str]) -> Tcc:
        """Inside of a try: its own branches belong to the same transaction. Raises NoTransaction."""
        return Tcc.joined(self._speaker, query_parameters)

    def tcc_inside(self, xid: str | None = None) -> Tcc:
        """TCC branches by URL of a global transaction of troth's (None: the current one), beside AT, TCC and XA.

        `client.tcc_inside().call(…)`: the owner of that transaction ends it. Only at troth's coordinator. Raises
        NoTransaction.
        """
        query_parameters = {"gid": _inside(xid), "branch_id": new_gid(), "trans_type": Kind.TCC.value}
        return Tcc.joined(self._speaker, query_parameters)

    def join_xa(self, query_parameters: Mapping[str, str]) -> Xa:
        """Inside of an XA branch: its own branches belong to the same transaction. Raises NoTransaction."""
        return Xa.joined(self._speaker, query_parameters)

    def xa_branch(
        self,
        query_parameters: Mapping[str, str],
        connection: Any,
        work: Callable[[Any], Any],
        *,
        keeping: Keeping | None = None,
    ) -> Any:
        """Serve a call of an XA branch, of all three sorts: one URL for them.

        Called by `Xa.call`, it does `work(connection)`, tells the coordinator of the branch, prepares, and gives what
        `work` returned. Called by the coordinator, it commits or rolls back what was prepared, and gives None.

        Args:
            query_parameters: of the request; `phase2_url` in it is this branch's own URL.
            connection: a URL, or a callable that gives a connection (psycopg 3, asyncpg, PyMySQL); it is closed.
            work: does the business, and leaves commit and rollback to this.

        Raises:
            NoTransaction: the request is no call of an XA branch.
            LateTry: the branch was rolled back before this came.
            BranchFailed: the database has not prepared it.
            Exception: of `work`, the coordinator or the database; nothing is left of phase one.
        """
        gid, branch_id, op = (query_parameters.get(name, "") for name in ("gid", "branch_id", "op"))
        if not gid or not branch_id or query_parameters.get("trans_type") != Kind.XA.value:
            raise NoTransaction("the request is no call of an XA branch of DTM's style")
        door = self._speaker.xa_door(connection, keeping or Keeping())
        if op in ("commit", "rollback"):
            return self._speaker.do(ended(gid, branch_id, op, door), door)
        url = query_parameters.get("phase2_url", "")
        if not url:
            raise NoTransaction("the request names no phase2_url, at which this branch could be ended")
        return self._speaker.do(prepared(self._speaker.link, gid, branch_id, url, door, work), door)

    def workflow(
        self, name: str, *, callback: str, options: Options | None = None, keeping: Keeping | None = None
    ) -> Callable[[Callable[..., Any]], Workflow]:
        """Decorator: code `(steps, data)` that goes on after a crash.

        Args:
            name: of the code; a coordinator's call-back names it.
            callback: the URL at which this service takes call-backs (`troth.integrations.dtm_asgi`, `dtm_wsgi`).
            keeping: where the barriers of its steps keep their rows, if not where DTM has them.

        Raises:
            ValueError: the name is taken.
        """

        def decorate(function: Callable[..., Any]) -> Workflow:
            made = Workflow(self._speaker, name, function, callback, options or Options(), keeping or Keeping())
            return self._workflows.add(made)

        return decorate

    def resume(self, query_parameters: Mapping[str, str], body: bytes) -> Any:
        """Serve a coordinator's call-back to a workflow. Raises as `Workflow.execute`; NoTransaction: it is none."""
        return self._workflows.resume(query_parameters, body)

    def deliver_on_commit(self, url: str, payload: object = None, *, xid: str | None = None) -> Any:
        """Deliver to `url`, until it has taken it, if and only if a global transaction of troth's commits.

        The transaction is begun as any (`troth.global_transaction`, a Seata client); the message is a branch of it
        beside AT, TCC and XA. Only at troth's coordinator, by the address of its DTM door.

        Args:
            url: is called with op `action` once the commit is decided; 200 means taken.
            payload: its body: JSON of it, or bytes as they are.
            xid: which transaction; None means the current one.

        Raises:
            NoTransaction: there is none.
            CoordinatorRefused: it is not open any more, or the coordinator is not troth's.
            CoordinatorUnavailable: not known whether it is registered: let it end the transaction.
        """
        data = {"url": url, "data": payload_text(payload)}
        return self._speaker.do(register(self._speaker.link, _inside(xid), Kind.MESSAGE, new_gid(), data))

    def query(self, gid: str) -> Any:
        """`{"transaction": {…} or None, "branches": […]}`, as the coordinator shows it."""
        return self._speaker.do(query(self._speaker.link, gid))

    def close(self) -> Any:
        """Close its connections; to be awaited on an async client."""
        return self._speaker.link.close()

    def __enter__(self) -> DtmClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> DtmClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _inside(xid: str | None) -> str:
    wanted = xid or current_xid()
    if wanted is None:
        raise NoTransaction("there is no global transaction that this could be a branch of")
    return wanted


def connect(coordinator: str, *, timeout: timedelta = DEFAULT_TIMEOUT, http: httpx.Client | None = None) -> DtmClient:
    """A blocking client; thread-safe.

    Args:
        coordinator: `http://host:36789`, or a URL with another path than DTM's.
        timeout: of one request.
        http: an httpx client of yours (proxies, certificates, limits); it is closed with this.

    Raises:
        ValueError: no HTTP URL.
    """
    return DtmClient(BlockingSpeaker(HttpLink(coordinator, timeout, http)))


def connect_async(
    coordinator: str, *, timeout: timedelta = DEFAULT_TIMEOUT, http: httpx.AsyncClient | None = None
) -> DtmClient:
    """`connect` for coroutines: no await; what the client's methods give is awaited."""
    return DtmClient(AsyncSpeaker(AsyncHttpLink(coordinator, timeout, http)))
