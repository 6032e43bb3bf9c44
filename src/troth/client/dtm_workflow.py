"""`@client.workflow`: code whose steps are kept at the coordinator, and that goes on after a crash."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from troth.client.barrier import Barrier, join
from troth.client.drivers.barrier import Keeping
from troth.client.dtm_speaker import Speaker, new_gid
from troth.client.dtm_tcc import read_body
from troth.client.errors import NoTransaction
from troth.client.flow import Flow, Invoke
from troth.client.modes.dtm import Kind, Options, Transaction, encoded, payload_text
from troth.client.modes.dtm_answers import BranchRefused, Ongoing
from troth.client.modes.dtm_workflow import (
    Branch,
    Run,
    Work,
    began,
    by_function,
    by_url,
    committed,
    rolled_back,
    stepped,
    written,
)
from troth.client.modes.fence import LateTry

Function = Callable[[], Any]


class Steps:
    """What a workflow's code gets first. On an async client `call` and `do` are to be awaited."""

    def __init__(self, speaker: Speaker, run: Run, keeping: Keeping) -> None:
        self.gid = run.transaction.gid
        self._speaker = speaker
        self._run = run
        self._keeping = keeping
        self._begun = 0

    def call(self, url: str, payload: object = None, *, rollback: str = "", commit: str = "") -> Any:
        """A step that is another service's; the body of its answer, read as JSON where it is that.

        Args:
            url: is called now (op `action`), unless an earlier run has kept its result.
            payload: what all three get as their body.
            rollback: is called if a step refuses: this one (as DTM does: its barrier knows), or a later one.
            commit: is called when the code has returned.

        Raises:
            BranchRefused: it answered 409; let it end the workflow, which is rolled back.
            Ongoing, BranchUnanswered: not known; let it end this run: the coordinator calls back for another.
        """
        text = payload_text(payload)
        ends = [by_url(self._run, other, text) if other else None for other in (commit, rollback)]
        branch = Branch(self._next(), ends[0], ends[1], undo_refused=True)
        return self._speaker.do(stepped(self._run, branch, by_url(self._run, url, text)))

    def do(self, function: Function, *, rollback: Function | None = None, commit: Function | None = None) -> Any:
        """A step that is done here: `function()`, whose result is kept and is data as JSON has.

        It may be done again if this process dies before the result is kept: functions under `@troth.dtm.barrier` are
        behind the barrier of their step, others give themselves an idempotency key. A `function` that raises
        BranchRefused has done nothing and is not rolled back. Raises as `call`.
        """
        ends = [None if other is None else self._here(other) for other in (commit, rollback)]
        branch = Branch(self._next(), ends[0], ends[1])
        return self._speaker.do(stepped(self._run, branch, self._here(function)))

    def _next(self) -> str:
        self._begun += 1  # at the call, not when it is awaited: steps of one gather() have names of their own
        return f"{self._begun:02d}"

    def _here(self, function: Function) -> Work:
        def blocking(branch_id: str, op: str) -> Any:
            with join(self._barrier(branch_id, op)):
                return function()

        async def awaiting(branch_id: str, op: str) -> Any:
            with join(self._barrier(branch_id, op)):
                found = function()
                return await found if inspect.isawaitable(found) else found

        return by_function(awaiting if self._speaker.is_async else blocking)

    def _barrier(self, branch_id: str, op: str) -> Barrier:
        return Barrier(self.gid, branch_id, op, Kind.WORKFLOW.value, keeping=self._keeping)


class Workflow:
    """A workflow: `execute` begins one run of it."""

    def __init__(
        self,
        speaker: Speaker,
        name: str,
        function: Callable[..., Any],
        callback: str,
        options: Options,
        keeping: Keeping,
    ) -> None:
        self.name = name
        self._speaker = speaker
        self._function = function
        self._callback = callback
        self._options = options
        self._keeping = keeping
        self._running: set[str] = set()
        functools.update_wrapper(self, function)  # type: ignore[arg-type]  # it has no __call__: execute says what it does

    def execute(self, data: object = None, *, gid: str | None = None) -> Any:
        """Run it; what the code returned. With the gid of one that has begun it goes on, or tells how that ended.

        Args:
            data: what the code gets after its steps: as JSON can, so that another process gets the same.
            gid: its name; None makes one.

        Raises:
            TransactionRolledBack: a step refused, and those before it are undone.
            Ongoing: this process runs it at this moment (a call-back that comes while the code takes its time).
            Exception: of the code or of a step: it is not decided; the coordinator calls back for another run.
        """
        return self._speaker.do(self._executed(gid or new_gid(), payload_text(data)))

    def _executed(self, gid: str, data: str) -> Flow[Any]:
        if gid in self._running:
            raise Ongoing(f"{gid} runs here at this moment")
        self._running.add(gid)
        try:
            return (yield from self._run(gid, data))
        finally:
            self._running.discard(gid)

    def _run(self, gid: str, data: str) -> Flow[Any]:
        transaction = Transaction(gid, Kind.WORKFLOW, self._options)
        transaction.custom = {"name": self.name, "data": encoded(data.encode())}
        run = Run(self._speaker.link, transaction)
        ended, result = yield from began(run, self._callback)
        if ended:
            return read_body(result)
        steps = Steps(self._speaker, run, self._keeping)
        try:
            returned = yield Invoke(self._function, (steps, read_body(data.encode())))
        except (BranchRefused, LateTry) as refused:
            yield from rolled_back(run, refused)
            raise
        yield from committed(run, written(returned))
        return returned


class Workflows:
    """All workflows of one client, by their names: what a coordinator's call-back looks in."""

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker
        self._known: dict[str, Workflow] = {}

    def add(self, workflow: Workflow) -> Workflow:
        """Serve it. Raises ValueError: the name is taken."""
        if self._known.setdefault(workflow.name, workflow) is not workflow:
            raise ValueError(f"this client has a workflow {workflow.name!r} already")
        return workflow

    def resume(self, query: Mapping[str, str], body: bytes) -> Any | Awaitable[Any]:
        """A coordinator's call-back: the query parameters and the body of its request.

        Raises:
            NoTransaction: it is none, or no such workflow is here.
            Others: as `Workflow.execute`; `troth.dtm.answer_to` makes an answer of them.
        """
        name, gid = query.get("op", ""), query.get("gid", "")
        if not gid or name not in self._known:
            raise NoTransaction(f"no workflow {name!r} is served here")
        return self._known[name].execute(body or None, gid=gid)
