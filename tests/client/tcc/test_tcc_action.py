"""`@troth.tcc`: what it takes, what it refuses, and what reaches confirm and cancel."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from tcc_banks import Bank, play, withdraw

import troth
from fixtures_coordinator import until
from troth.client import holder
from troth.client.tcc_handler import ActionHandler
from troth.wire.seata.enums import BranchType, GlobalStatus
from troth.wire.seata.messages import (
    BranchCommitRequest,
    BranchRegisterRequest,
    BranchRegisterResponse,
    BranchReportRequest,
    Message,
)

Steps = list[tuple[str, Any]]


def three_functions(seen: Steps, name: str, **options: Any) -> Any:
    def confirm(ctx: troth.ActionContext) -> Any:
        seen.append(("confirm", ctx))

    def cancel(ctx: troth.ActionContext) -> Any:
        seen.append(("cancel", ctx))

    @troth.tcc(name=name, confirm=confirm, cancel=cancel, fence="off", **options)
    def book(ctx: troth.ActionContext, room: str, *guests: str, nights: int = 1, **wishes: object) -> str:
        """Book a room."""
        seen.append(("try", ctx))
        return f"{room}-{nights}"

    return book


def test_three_functions_without_a_fence() -> None:
    seen: Steps = []
    book = three_functions(seen, "book")
    assert (book.name, book.__name__, book.__doc__) == ("book", "book", "Book a room.")
    with troth.transaction(name="trip") as tx:
        assert book("12", "Ann", "Bob", nights=3, view="sea") == "12-3"
    assert [verb for verb, _ in seen] == ["try", "confirm"]
    confirmed = seen[1][1]
    assert (confirmed.xid, confirmed.action, confirmed.result) == (tx.xid, "book", "12-3")
    assert confirmed.arguments == {"room": "12", "guests": ["Ann", "Bob"], "nights": 3, "wishes": {"view": "sea"}}
    assert (confirmed["nights"], confirmed.connection) == (3, None)


def test_the_context_is_written_as_java_writes_it(tcc_client: troth.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Message] = []
    tell = tcc_client.tell

    def tap(message: Message) -> Message:
        told.append(message)
        return tell(message)

    monkeypatch.setattr(tcc_client, "tell", tap)
    with troth.transaction(name="trip"):
        three_functions([], "book-java")("12")
    (register,) = [message for message in told if isinstance(message, BranchRegisterRequest)]
    assert (register.branch_type, register.resource_id, register.lock_key) == (BranchType.TCC, "book-java", None)
    entries = json.loads(register.application_data or "")["actionContext"]
    assert entries.pop("action-start-time") > 1_600_000_000_000
    assert entries.pop("host-name")
    names = {"sys::prepare": "book", "sys::commit": "confirm", "sys::rollback": "cancel", "actionName": "book-java"}
    given = {"room": "12", "guests": [], "nights": 1, "wishes": {}}
    assert entries == names | given | {"useTCCFence": False}
    (report,) = [message for message in told if isinstance(message, BranchReportRequest)]
    assert json.loads(report.application_data or "")["actionContext"]["troth::result"] == "12-1", "a report replaces it"


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (Decimal("1.5"), "nights is Decimal"),
        (datetime.now(UTC), "datetime"),
        (b"x", "bytes"),
        ({1, 2}, "set"),
        (float("nan"), "nan"),
        ([1, {"a": [object()]}], r"nights\[1\]\['a'\]\[0\] is"),
        ({1: 2}, "a key of nights is 1"),
        ("\ud800", "str"),
    ],
)
def test_arguments_that_do_not_serialise_are_refused_before_the_try(value: object, path: str) -> None:
    seen: Steps = []
    book = three_functions(seen, "book-refused")

    def trip() -> None:
        with troth.transaction(name="trip"):
            with pytest.raises(troth.NotSupported, match=path):
                book("12", nights=value)
            with pytest.raises(troth.NotSupported, match="64000"):
                book("12" * 40_000)

    trip()  # and commits: nothing was done, and the coordinator knows of no branch
    assert seen == []


def test_a_result_that_does_not_serialise_rolls_back() -> None:
    seen: Steps = []

    @troth.tcc(name="odd", confirm=lambda ctx: seen.append(ctx), cancel=lambda ctx: seen.append("cancel"), fence="off")
    def odd(ctx: troth.ActionContext) -> object:
        return object()

    def swallow() -> None:
        with troth.transaction(name="odd"), pytest.raises(troth.NotSupported, match="what the try of odd returned"):
            odd()

    with pytest.raises(troth.TransactionRolledBack):
        swallow()
    assert seen == ["cancel"]


def test_outside_of_a_global_transaction_nobody_would_confirm() -> None:
    with pytest.raises(troth.NoTransaction, match="book-alone"):
        three_functions([], "book-alone")("12")


def left_by_another_process(client: troth.Client, action: str) -> str:
    """A transaction that is to be committed, with a branch of `action` that was not tried here."""
    data = json.dumps({"actionContext": {"actionName": action, "useTCCFence": False, "room": "12"}})
    with troth.transaction(name="trip", client=client) as tx:
        answer = client.tell(BranchRegisterRequest(tx.xid, BranchType.TCC, action, None, data))
        assert isinstance(answer, BranchRegisterResponse)
        assert answer.branch_id
    return tx.xid


@pytest.fixture
def no_client(tcc_client: troth.Client) -> Iterator[None]:
    """As before `troth.init`; the client goes on, and is the default one again afterwards."""
    holder._HOLDER.swap(None)
    yield
    holder._HOLDER.swap(tcc_client)


def test_an_action_that_was_made_before_init_is_served_from_init_on(tcc_client: troth.Client, no_client: None) -> None:
    """No try is needed, so a process that starts again ends what an earlier one has left."""
    seen: Steps = []

    @troth.tcc(name="early-class", fence="off")
    class Book:
        def try_(self, ctx: troth.ActionContext, room: str) -> None: ...

        def confirm(self, ctx: troth.ActionContext) -> None:
            seen.append(("class", ctx["room"]))

        def cancel(self, ctx: troth.ActionContext) -> None: ...

    async def confirm(ctx: troth.ActionContext) -> None:
        seen.append(("async", ctx["room"]))

    @troth.tcc(name="early-async", confirm=confirm, cancel=confirm, fence="off")
    async def book(ctx: troth.ActionContext, room: str) -> None: ...

    first, second = Book(), Book()
    holder.use(tcc_client)
    for action in ("early-class", "early-async"):
        xid = left_by_another_process(tcc_client, action)
        until(lambda xid=xid: tcc_client.status(xid) is GlobalStatus.Committed, what=action)
    assert seen == [("class", "12"), ("async", "12")]
    assert first is not second
    assert book.name == "early-async"


def test_an_action_is_served_by_each_client_that_comes(no_client: None) -> None:
    seen: Steps = []
    action = three_functions(seen, "again")
    for count in (1, 2):
        with troth.embedded(store="memory://") as client:
            xid = left_by_another_process(client, action.name)
            until(lambda xid=xid, client=client: client.status(xid) is GlobalStatus.Committed)
        assert [verb for verb, _ in seen] == ["confirm"] * count


def test_what_is_gone_is_not_announced(tcc_client: troth.Client, no_client: None) -> None:
    told: list[str] = []

    class Heard:
        def __init__(self, name: str) -> None:
            self.name = name

        def announce(self) -> None:
            told.append(self.name)

    kept, lost = Heard("kept"), Heard("lost")
    holder.serve_always(lost)
    holder.serve_always(kept)
    del lost
    holder.use(tcc_client)
    assert told == ["kept"]


def test_false_is_later(tcc_client: troth.Client) -> None:
    answers = [False, None]
    calls: list[int] = []

    def confirm(ctx: troth.ActionContext) -> bool | None:
        calls.append(ctx.branch_id)
        return answers.pop(0)

    @troth.tcc(name="twice", confirm=confirm, cancel=lambda ctx: None, fence="off")
    def twice(ctx: troth.ActionContext) -> None: ...

    with troth.transaction(name="trip") as tx:
        twice()
    until(lambda: tcc_client.status(tx.xid) is GlobalStatus.Committed)
    assert len(calls) == 2


def test_wrong_use_is_told_at_once() -> None:
    def plain(ctx: troth.ActionContext) -> None: ...

    async def awaited(ctx: troth.ActionContext) -> None: ...

    def taken(ctx: troth.ActionContext, actionName: str) -> None: ...  # noqa: N803

    def no_context() -> None: ...

    with pytest.raises(TypeError, match="give connection="):
        troth.tcc(confirm=plain, cancel=plain)
    with pytest.raises(TypeError, match="do not fit"):
        troth.tcc(connection=sqlite3.connect, fence="off")
    with pytest.raises(ValueError, match="sometimes"):
        troth.tcc(connection=sqlite3.connect, fence="sometimes")
    with pytest.raises(TypeError, match="confirm= and cancel= are needed"):
        troth.tcc(fence="off")(plain)
    with pytest.raises(TypeError, match="all async, or none"):
        troth.tcc(fence="off", confirm=awaited, cancel=plain)(plain)
    with pytest.raises(troth.NotSupported, match="actionName"):
        troth.tcc(fence="off", confirm=plain, cancel=plain)(taken)
    with pytest.raises(TypeError, match="takes an ActionContext first"):
        troth.tcc(fence="off", confirm=plain, cancel=plain)(no_context)
    with pytest.raises(ValueError, match="cannot name an action"):
        troth.tcc(name="a,b", fence="off", confirm=plain, cancel=plain)(plain)
    with pytest.raises(TypeError, match="has no method cancel"):
        troth.tcc(fence="off")(type("Half", (), {"try_": plain, "confirm": plain}))


@pytest.mark.engines
def test_a_connection_under_at_is_refused(sqlite_bank: Bank) -> None:
    troth.at.init(sqlite_bank.url)
    under_at = troth.at.connect(sqlite_bank.url)
    sqlite_bank.connect = lambda: under_at
    action = withdraw(sqlite_bank)
    with pytest.raises(troth.NotSupported, match="under AT"):
        play(action, {"amount": 1})
    assert (sqlite_bank.log, sqlite_bank.books()) == ([], (100, 0))
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        under_at.execute("SELECT 1")


@pytest.mark.engines
def test_an_action_that_commits_by_itself_is_cancelled_all_the_same(sqlite_bank: Bank) -> None:
    """`with connection:` of sqlite3 commits. The try that fails behind it has left something."""
    action = withdraw(sqlite_bank)
    run = sqlite_bank.run

    def run_and_commit(connection: sqlite3.Connection, sql: str, *values: object) -> None:
        with connection:
            run(connection, sql, *values)

    sqlite_bank.run = run_and_commit
    with pytest.raises(ValueError, match="the try failed"):
        play(action, {"amount": 30, "fail": True})
    until(lambda: sqlite_bank.log == ["try", "cancel"])
    assert sqlite_bank.books() == (100, 0)


@pytest.mark.engines
def test_an_action_is_fenced_as_its_try_was(sqlite_bank: Bank) -> None:
    """A branch from before the action was given its fence is not taken for an empty one, and the reverse."""
    handler: ActionHandler = withdraw(sqlite_bank).try_._handler
    unfenced = '{"actionContext":{"account":"A","amount":10,"useTCCFence":false}}'
    sqlite_bank.run = lambda *_: None
    (answer,) = handler.commit([BranchCommitRequest("a:1:1", 5, BranchType.TCC, "x", unfenced)])
    assert (answer.branch_status.name, sqlite_bank.log) == ("PhaseTwo_Committed", ["confirm"])
    bare: ActionHandler = withdraw(sqlite_bank, "off").try_._handler
    fenced = unfenced.replace("false", "true")
    (answer,) = bare.commit([BranchCommitRequest("a:1:1", 6, BranchType.TCC, "x", fenced)])
    assert (answer.branch_status.name, sqlite_bank.log) == ("PhaseTwo_CommitFailed_Retryable", ["confirm"])
    (answer,) = bare.commit([BranchCommitRequest("a:1:1", 6, BranchType.TCC, "x", "no context")])
    assert "not the context of an action" in (answer.msg or "")


@pytest.mark.engines
async def test_an_async_action_is_confirmed_in_the_loop_of_its_application(new_bank: Callable[[str], Bank]) -> None:
    bank = new_bank("aiosqlite")
    action = withdraw(bank)
    loops: list[asyncio.AbstractEventLoop] = []
    bank.hooks["confirm"] = lambda: loops.append(asyncio.get_running_loop())
    async with troth.transaction(name="async"):
        await asyncio.gather(action.try_("A", 10), action.try_("A", 20))
    assert loops == [asyncio.get_running_loop()]
    assert bank.books() == (70, 0)


@pytest.mark.engines
def test_an_action_by_url_and_the_name_of_a_method(sqlite_bank: Bank) -> None:
    books: list[str] = []

    @troth.tcc(connection="connect")
    class Named:
        action_name = "by-method"

        def connect(self) -> Any:
            return sqlite_bank.connect()

        def try_(self, ctx: troth.ActionContext) -> None:
            ctx.connection.execute("UPDATE account SET balance = balance - 1")

        def confirm(self, ctx: troth.ActionContext) -> None:
            books.append(ctx.action)

        def cancel(self, ctx: troth.ActionContext) -> None: ...

    def confirm(ctx: troth.ActionContext) -> None:
        books.append(ctx.action)

    @troth.tcc(name="by-url", connection=sqlite_bank.url, confirm=confirm, cancel=confirm)
    def by_url(ctx: troth.ActionContext) -> None:
        ctx.connection.execute("UPDATE account SET balance = balance - 1")

    named = Named()
    with troth.transaction(name="both"):
        named.try_()
        by_url()
    assert sorted(books) == ["by-method", "by-url"]
    with closing(sqlite3.connect(sqlite_bank.url.removeprefix("sqlite:///"))) as raw:
        assert raw.execute("SELECT balance FROM account").fetchall() == [(98,)]
        assert raw.execute("SELECT status, action_name FROM tcc_fence_log ORDER BY 2").fetchall() == [
            (2, "by-method"),
            (2, "by-url"),
        ]
