"""C23: an xid does not get lost in a pool, nor is it left on a thread and joined to the next request."""

from __future__ import annotations

import contextvars
import logging
from concurrent.futures import ThreadPoolExecutor

import troth
from troth.client.context import join
from troth.integrations.wsgi import TrothMiddleware

A, B = "10.0.0.1:8091:1", "10.0.0.1:8091:2"


def serve(middleware, xid):
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/"} | ({"HTTP_TX_XID": xid} if xid else {})
    return list(middleware(environ, lambda status, headers, exc_info=None: lambda data: None))


def test_c23_a_pool_starts_without_an_xid_and_takes_one_with_the_context():
    with ThreadPoolExecutor(1) as pool, join(A):
        assert pool.submit(troth.current_xid).result() is None
        assert pool.submit(contextvars.copy_context().run, troth.current_xid).result() == A
        assert pool.submit(troth.current_xid).result() is None


def test_c23_a_scope_that_is_never_left_is_told_and_does_not_reach_the_next_request(caplog):
    seen = []

    def app(environ, start_response):
        seen.append(troth.current_xid())
        start_response("200 OK", [])
        if environ["HTTP_TX_XID"] == A:
            join(B).__enter__()  # a bug: nobody leaves it
        return [b""]

    middleware = TrothMiddleware(app)
    with ThreadPoolExecutor(1) as pool, caplog.at_level(logging.WARNING):
        pool.submit(serve, middleware, A).result()
        assert pool.submit(troth.current_xid).result() is None
        assert B in caplog.text
        assert "never left" in caplog.text
        pool.submit(serve, middleware, "10.0.0.1:8091:3").result()
    assert seen == [A, "10.0.0.1:8091:3"]


def test_c23_an_xid_left_before_the_request_is_told_and_not_joined(caplog):
    seen = []

    def app(environ, start_response):
        seen.append(troth.current_xid())
        start_response("200 OK", [])
        return [b""]

    with ThreadPoolExecutor(1) as pool, caplog.at_level(logging.WARNING):
        pool.submit(lambda: join(B).__enter__()).result()
        pool.submit(serve, TrothMiddleware(app), None).result()
    assert seen == [None]
    assert f"xid {B} was left on this thread" in caplog.text
