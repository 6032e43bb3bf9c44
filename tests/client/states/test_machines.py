"""State machines on a whole coordinator in this process: the shells, and how they end there."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

import troth
from fixtures_coordinator import until
from troth.client.modes.saga import RunEnds
from troth.client.state_machines import UnknownMachine
from troth.inprocess import Embedded

OPTIONS = troth.MachineOptions(
    undo_attempts=2, forward_attempts=2, forward_pause=timedelta(milliseconds=10), check_every=timedelta(seconds=2)
)


class OutOfStock(LookupError):
    """As a definition names it."""


class Shop:
    """Notes what it does; `failing` are the methods that raise."""

    def __init__(self, *failing: str) -> None:
        self.failing = set(failing)
        self.calls: list[str] = []

    def work(self, what: str) -> str:
        self.calls.append(f"do {what}")
        if what in self.failing:
            raise OutOfStock(f"no {what}")
        return what.upper()

    def undo(self, what: str) -> None:
        self.calls.append(f"undo {what}")
        if f"undo {what}" in self.failing:
            raise ConnectionError("nobody there")

    async def awork(self, what: str) -> str:
        await asyncio.sleep(0)
        return self.work(what)

    async def aundo(self, what: str) -> None:
        self.undo(what)


def machine(version: str = "1", prefix: str = "", **more: Any) -> dict[str, Any]:
    """Two tasks side by side, then one; each compensated."""

    def task(what: str, following: str) -> dict[str, Any]:
        return {
            "Type": "ServiceTask",
            "ServiceName": "shop",
            "ServiceMethod": f"{prefix}work",
            "Input": [what],
            "Output": {what: "$.#root"},
            "CompensateState": f"Undo{what}",
            "Next": following,
        }

    def undo(what: str) -> dict[str, Any]:
        return {"Type": "ServiceTask", "ServiceName": "shop", "ServiceMethod": f"{prefix}undo", "Input": [what]}

    states = {
        "Both": {"Type": "Fork", "Branches": ["A", "B"]},
        "A": task("a", "Joined"),
        "B": task("b", "Joined"),
        "Joined": {"Type": "Join", "Next": "C"},
        "C": {**task("c", "Done"), "Catch": [{"Exceptions": ["OutOfStock"], "Next": "Undo"}]},
        "Undo": {"Type": "CompensationTrigger", "Next": "Failed"},
        "Done": {"Type": "Succeed"},
        "Failed": {"Type": "Fail", "ErrorCode": "E1", "Message": "out of stock"},
        **{f"Undo{what}": undo(what) for what in "abc"},
    }
    return {"Name": "order", "Version": version, "StartState": "Both", "States": states, **more}


@pytest.fixture(scope="module")
def coordinator() -> Iterator[Embedded]:
    embedded = troth.embedded(retry__min="50ms", retry__max="200ms", admin_port=0)
    with embedded:
        yield embedded


def machines(shop: Shop, name: str) -> troth.StateMachines:
    return troth.StateMachines({"shop": shop}, name=f"machines.{name}", options=OPTIONS)


def test_done(coordinator: Embedded) -> None:
    shop = Shop()
    served = machines(shop, "done")
    served.add(json.dumps(machine()))
    assert served.start("order", {"x": 1}) == {"x": 1, "a": "A", "b": "B", "c": "C"}
    assert sorted(shop.calls[:2]) == ["do a", "do b"]
    assert shop.calls[2:] == ["do c"]


def test_failed_and_compensated(coordinator: Embedded) -> None:
    shop = Shop("c")
    served = machines(shop, "failed")
    served.add(machine())
    with pytest.raises(troth.StateMachineFailed, match="order failed E1: out of stock, and is compensated") as failed:
        served.start("order")
    assert shop.calls[3:] == ["undo c", "undo b", "undo a"]
    assert failed.value.ended.error_code == "E1"


def test_async(coordinator: Embedded) -> None:
    shop = Shop("c")
    served = troth.AsyncStateMachines({"shop": shop}, name="machines.async", options=OPTIONS)
    served.add(machine(prefix="a"))
    with pytest.raises(troth.StateMachineFailed):
        asyncio.run(served.start("order"))
    assert shop.calls[3:] == ["undo c", "undo b", "undo a"]


def test_a_compensation_that_fails_needs_a_human_and_goes_on_when_told(coordinator: Embedded) -> None:
    shop = Shop("c", "undo b")
    served = machines(shop, "stuck")
    served.add(machine())
    with pytest.raises(troth.NeedsHuman, match="nobody there") as stuck:
        served.start("order")
    assert shop.calls[3:6] == ["undo c", "undo b", "undo b"]
    assert "undo a" not in shop.calls
    xid = stuck.value.xid
    until(
        lambda: any("needs-human" in str(one["last_error"]) for one in seen(coordinator, xid)["branches"]),
        what="it is frozen",
    )
    shop.failing.clear()
    ask(coordinator, f"/api/transactions/{xid}/retry", "POST")
    until(lambda: seen(coordinator, xid)["status"] == "Rollbacked", what="it is rolled back")
    assert shop.calls[-2:] == ["undo b", "undo a"]


def test_a_change_that_nothing_undoes_needs_a_human(coordinator: Embedded) -> None:
    shop = Shop("c")
    definition = machine()
    del definition["States"]["A"]["CompensateState"]
    definition["States"]["A"]["IsForUpdate"] = True
    served = machines(shop, "without-undo")
    served.add(definition)
    with pytest.raises(troth.NeedsHuman, match="out of stock"):
        served.start("order")
    assert shop.calls[3:] == []


def test_forward_recovery(coordinator: Embedded) -> None:
    shop = Shop("c")
    definition = machine(RecoverStrategy="Forward")
    del definition["States"]["C"]["Catch"]
    served = machines(shop, "forward")
    served.add(definition)
    with pytest.raises(troth.NeedsHuman, match="no c"):
        served.start("order")
    assert shop.calls[2:] == ["do c", "do c"]


def test_a_script_of_ones_own(coordinator: Embedded) -> None:
    script = {
        "Type": "ScriptTask",
        "ScriptType": "python",
        "ScriptContent": "a + b",
        "Input": [{"a": 1, "b": "$.[b]"}],
        "Output": {"sum": "$.#root"},
        "Next": "Cel",
    }
    cel = {**script, "ScriptType": "cel", "Output": {"cel": "$.#root"}, "Next": ""}
    served = troth.StateMachines(
        {}, name="machines.scripts", scripts={"python": lambda content, names: sum(names.values())}
    )
    served.add({"Name": "m", "StartState": "Own", "States": {"Own": script, "Cel": cel}})
    assert served.start("m", {"b": 2}) == {"b": 2, "sum": 3, "cel": 3}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ServiceName": "bank"}, "no service 'bank' was given"),
        ({"ServiceMethod": "steal"}, "'shop' has no method 'steal'"),
        ({"ServiceMethod": "_secret"}, "has no method"),
        ({"Type": "ScriptTask", "ScriptContent": "1"}, "no engine for scripts of the type 'groovy'"),
    ],
)
def test_what_nobody_can_do_is_refused_when_it_is_added(change: dict[str, Any], reason: str) -> None:
    definition = machine()
    definition["States"]["C"].update(change)
    with pytest.raises(LookupError, match=reason):
        machines(Shop(), "refused").add(definition)


def test_unknown() -> None:
    with pytest.raises(UnknownMachine, match="known: none"):
        machines(Shop(), "unknown").start("order")


def test_a_run_whose_definition_is_not_here_is_left_to_others(coordinator: Embedded) -> None:
    """It was compensated for that once: a process that serves before it has all definitions must not end a run."""
    shop = Shop()
    served = machines(shop, "late")
    served.add(machine(version="2"))
    with pytest.raises(RunEnds, match="no state machine 'order' 1 was added"):
        served._run("order", "1", {}, "")
    (xid,) = (tx["xid"] for tx in ask(coordinator, "/api/transactions?status=Begin")["transactions"])
    served.add(machine())
    until(lambda: seen(coordinator, xid)["status"] == "Committed", what="it has gone on")
    assert len(shop.calls) == 3


def test_a_run_keeps_its_version() -> None:
    served = machines(Shop(), "versions")
    first = served.add(machine())
    second = served.add(machine(version="2"))
    assert served.find("order") is second
    assert served.find("order", "1") is first


def ask(coordinator: Embedded, path: str, method: str = "GET") -> Any:
    """The admin API of the coordinator in this process."""
    request = urllib.request.Request(f"{coordinator.ready.admin}{path}", method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def seen(coordinator: Embedded, xid: str) -> Any:
    return ask(coordinator, f"/api/transactions/{xid}")
