"""WSGI middleware for services that a coordinator of DTM's style calls (Flask, Pyramid, Bottle …).

    app.wsgi_app = DtmMiddleware(app.wsgi_app, check_backs={"/check-back": "postgresql://bank@db/bank"})

Inside a coordinator's call `@troth.dtm.barrier` works; BranchRefused, LateTry and Ongoing become 409 and 425. A
framework that makes a 500 of every exception by itself (Flask) needs an error handler for these:
`troth.dtm.answer_to(error)` has status and body. Django: `troth.integrations.django.dtm`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from troth.client.barrier import check_back, join
from troth.client.drivers.barrier import Keeping
from troth.client.dtm_endpoint import DONE, TOLD, Answer, answer, called, checked_back, refused
from troth.client.errors import NoTransaction

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from troth.client.dtm import DtmClient


class DtmMiddleware:
    """Binds the barrier of each coordinator's call, answers its check-backs, and resumes its workflows.

    The application's body is produced outside of the barrier: what a call does, it does before it answers.

    Args:
        app: the application inside.
        check_backs: by path: the database (a URL, or a callable that gives a connection) that has the barrier's rows
            of the messages sent from here.
        workflows: by path: the blocking client whose workflows are called back there.
        keeping: where the barrier's rows are, if not where DTM has them.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        check_backs: Mapping[str, Any] | None = None,
        workflows: Mapping[str, DtmClient] | None = None,
        keeping: Keeping | None = None,
    ) -> None:
        self.app = app
        self._check_backs = dict(check_backs or {})
        self._workflows = dict(workflows or {})
        self._keeping = keeping or Keeping()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request, as WSGI calls it."""
        query = dict(parse_qsl(environ.get("QUERY_STRING", "")))
        path = environ.get("PATH_INFO", "")
        if path in self._check_backs:
            return _send(start_response, self._checked_back(self._check_backs[path], query))
        if path in self._workflows:
            return _send(start_response, _resumed(self._workflows[path], query, environ))
        try:
            barrier = called(query, self._keeping)
        except ValueError as error:
            return _send(start_response, refused(str(error)))
        if barrier is None:
            return self.app(environ, start_response)
        try:
            with join(barrier):
                return self.app(environ, start_response)
        except TOLD as error:
            return _send(start_response, answer(error))

    def _checked_back(self, connection: Any, query: Mapping[str, str]) -> Answer:
        gid = query.get("gid", "")
        try:
            return checked_back(committed=check_back(connection, gid, keeping=self._keeping), gid=gid)
        except Exception as error:  # noqa: BLE001 - every driver has errors of its own; it is logged and answered
            return answer(error)


def _resumed(client: DtmClient, query: Mapping[str, str], environ: WSGIEnvironment) -> Answer:
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    try:
        client.resume(query, body)
    except NoTransaction as error:
        return refused(str(error))
    except Exception as error:  # noqa: BLE001 - of the user's code: it is logged and answered
        return answer(error)
    return DONE


def _send(start_response: StartResponse, found: Answer) -> Iterable[bytes]:
    start_response(found.line, found.headers)
    return [found.body]
