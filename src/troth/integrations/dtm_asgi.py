"""ASGI middleware for services that a coordinator of DTM's style calls (Starlette, FastAPI, Quart …).

    app.add_middleware(DtmMiddleware, check_backs={"/check-back": "postgresql://bank@db/bank"})

Inside a coordinator's call `@troth.dtm.barrier` works; BranchRefused, LateTry and Ongoing become 409 and 425.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from troth.client.barrier import acheck_back, check_back, join
from troth.client.drivers.barrier import Keeping
from troth.client.dtm_endpoint import DONE, TOLD, Answer, answer, called, checked_back, refused
from troth.client.errors import NoTransaction

if TYPE_CHECKING:
    from troth.client.dtm import DtmClient

# The shapes that the ASGI specification gives; its values are of many types.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class DtmMiddleware:
    """Binds the barrier of each coordinator's call, answers its check-backs, and resumes its workflows.

    Args:
        app: the application inside.
        check_backs: by path: the database that has the barrier's rows of the messages sent from here: a callable that
            gives an async connection; or a URL, which is asked in a thread.
        workflows: by path: the client whose workflows are called back there (a blocking one runs in a thread).
        keeping: where the barrier's rows are, if not where DTM has them.
    """

    def __init__(
        self,
        app: App,
        *,
        check_backs: Mapping[str, Any] | None = None,
        workflows: Mapping[str, DtmClient] | None = None,
        keeping: Keeping | None = None,
    ) -> None:
        self.app = app
        self._check_backs = dict(check_backs or {})
        self._workflows = dict(workflows or {})
        self._keeping = keeping or Keeping()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI calls it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        query, path = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1"))), scope["path"]
        if path in self._check_backs:
            await _send(send, await self._checked_back(self._check_backs[path], query))
        elif path in self._workflows:
            await _send(send, await _resumed(self._workflows[path], query, await _body(receive)))
        else:
            await self._served(query, scope, receive, send)

    async def _served(self, query: Mapping[str, str], scope: Scope, receive: Receive, send: Send) -> None:
        try:
            barrier = called(query, self._keeping)
        except ValueError as error:
            await _send(send, refused(str(error)))
            return
        if barrier is None:
            await self.app(scope, receive, send)
            return
        answers = _Answers(send)
        try:
            with join(barrier):
                await self.app(scope, receive, answers.send)
        except TOLD as error:
            if answers.started:
                raise
            await _send(send, answer(error))
        except BaseException:
            await answers.flush()
            raise
        else:
            await answers.flush()

    async def _checked_back(self, connection: Any, query: Mapping[str, str]) -> Answer:
        gid = query.get("gid", "")
        try:
            if isinstance(connection, str):
                committed = await asyncio.to_thread(check_back, connection, gid, keeping=self._keeping)
            else:
                committed = await acheck_back(connection, gid, keeping=self._keeping)
            return checked_back(committed=committed, gid=gid)
        except Exception as error:  # noqa: BLE001 - every driver has errors of its own; it is logged and answered
            return answer(error)


class _Answers:
    """Holds a 500 back until the application has ended: a framework sends it, and then raises what it is about."""

    def __init__(self, send: Send) -> None:
        self.started = False
        self._send = send
        self._held: list[Message] = []

    async def send(self, message: Message) -> None:
        is_start = message["type"] == "http.response.start"
        if self._held or (is_start and message["status"] == HTTPStatus.INTERNAL_SERVER_ERROR):
            self._held.append(message)
            return
        self.started = True
        await self._send(message)

    async def flush(self) -> None:
        for message in self._held:
            await self._send(message)
        self._held.clear()


async def _resumed(client: DtmClient, query: Mapping[str, str], body: bytes) -> Answer:
    try:
        if client.is_async:
            resumed = client.resume(query, body)
            if inspect.isawaitable(resumed):
                await resumed
        else:
            await asyncio.to_thread(client.resume, query, body)
    except NoTransaction as error:
        return refused(str(error))
    except Exception as error:  # noqa: BLE001 - of the user's code: it is logged and answered
        return answer(error)
    return DONE


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ConnectionError("the coordinator hung up")
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)


async def _send(send: Send, found: Answer) -> None:
    headers = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in found.headers]
    await send({"type": "http.response.start", "status": found.status, "headers": headers})
    await send({"type": "http.response.body", "body": found.body})
