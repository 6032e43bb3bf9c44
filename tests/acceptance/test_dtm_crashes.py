"""The coordinator killed by SIGKILL at each call to a branch, and started again: each type of transaction ends as it
was decided, each op was called at least once, in its order, and nothing else was; who submits again hears it.
"""

import base64
import http.client
import json
import sys
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pytest

from dtm_service import DONE, REFUSED, BranchService, Called, DtmClient, saga, service
from fixtures_coordinator import CoordinatorProcess

__all__ = ["service"]
pytestmark = pytest.mark.engines

SETTINGS = ("dtm.retry_interval=100ms", "dtm.timeout_to_fail=1s", "dtm.request_timeout=1s")
GID = "trip-7"

Start = Callable[[DtmClient, BranchService], None]


def persist(dtm: DtmClient, what: str, **fields: object) -> int:
    """The status of a request that is sent until it is answered, as a client does whose coordinator restarts."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return dtm.post(what, **fields)[0]
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def submit_saga(dtm: DtmClient, service: BranchService) -> None:
    persist(dtm, "submit", gid=GID, wait_result=True, **saga(service, "a", "b", "c"))


def fail_saga(dtm: DtmClient, service: BranchService) -> None:
    service.say("/c", REFUSED)
    submit_saga(dtm, service)


def end_branches(kind: str, end: str) -> Start:
    def start(dtm: DtmClient, service: BranchService) -> None:
        persist(dtm, "prepare", gid=GID, trans_type=kind, timeout_to_fail=100)
        for number in ("01", "02"):
            urls = {op: service.url(f"/{op}-{number}") for op in ("confirm", "cancel")}
            urls["url"] = service.url(f"/xa-{number}")
            persist(dtm, "registerBranch", gid=GID, trans_type=kind, branch_id=number, data="{}", **urls)
        persist(dtm, end, gid=GID, trans_type=kind)

    return start


def check_back(dtm: DtmClient, service: BranchService) -> None:
    steps = [{"action": service.url(f"/{name}")} for name in ("a", "b")]
    body = {"trans_type": "msg", "steps": steps, "query_prepared": service.url("/asked"), "timeout_to_fail": 1}
    persist(dtm, "prepare", gid=GID, **body)


def call_back(dtm: DtmClient, service: BranchService) -> None:
    """A workflow whose runner is asked to go on, and does nothing but say so the first time."""
    data = {"name": "trip", "data": base64.b64encode(b"{}").decode()}
    body = {"trans_type": "workflow", "custom_data": json.dumps(data), "query_prepared": service.url("/run")}
    persist(dtm, "prepareWorkflow", gid=GID, **body)
    step = {"trans_type": "workflow", "branch_id": "01", "op": "action", "status": "succeed", "data": "seat"}
    persist(dtm, "registerBranch", gid=GID, **step)


class Scenario(NamedTuple):
    start: Start
    status: str
    calls: list[str]


SCENARIOS = {
    "saga": Scenario(submit_saga, "succeed", ["/a", "/b", "/c"]),
    "saga-refused": Scenario(fail_saga, "failed", ["/a", "/b", "/c", "/c-undo", "/b-undo", "/a-undo"]),
    "tcc": Scenario(end_branches("tcc", "submit"), "succeed", ["/confirm-02", "/confirm-01"]),
    "tcc-aborted": Scenario(end_branches("tcc", "abort"), "failed", ["/cancel-02", "/cancel-01"]),
    "xa": Scenario(end_branches("xa", "submit"), "succeed", ["/xa-01", "/xa-02"]),
    "msg": Scenario(check_back, "succeed", ["/asked", "/a", "/b"]),
    "workflow": Scenario(call_back, "prepared", ["/run"]),
}
SAMPLE = {("saga-refused", 3)}


def cases() -> Iterator[object]:
    for name, scenario in SCENARIOS.items():
        for number in range(len(scenario.calls)):
            marks = () if (name, number) in SAMPLE else (pytest.mark.soak,)
            yield pytest.param(name, number, id=f"{name}-{scenario.calls[number].strip('/')}", marks=marks)


@pytest.mark.parametrize(("name", "number"), list(cases()))
def test_killed_while_a_branch_is_called(tmp_path: Path, service: BranchService, name: str, number: int) -> None:
    start, status, expected = SCENARIOS[name]
    coordinator = CoordinatorProcess(tmp_path, *SETTINGS)
    killed: list[str] = []

    def kill(called: Called) -> None:
        """The branch has done its work, and nobody is there to hear of it."""
        if called.path == expected[number] and not killed:
            killed.append(called.path)
            coordinator.kill()
            coordinator.start()

    service.on_call = kill
    try:
        coordinator.start()
        dtm = DtmClient(coordinator.ready["dtm_http_port"])
        start(dtm, service)
        if status == "prepared":
            _wait(lambda: len(service.of("/run")) >= 3)
            assert dtm.branches(GID) == [("01", "action", "succeed")]
        else:
            _wait(lambda: _status(dtm) == status)
        assert killed == [expected[number]]
        assert [path for path, _ in groupby(service.paths(GID))] == expected
        if name.startswith("saga"):  # whoever asks again hears the truth
            answer = persist(dtm, "submit", gid=GID, wait_result=True, **saga(service, "a", "b", "c"))
            assert answer == (200 if status == "succeed" else 409)
    finally:
        coordinator.close()


def _status(dtm: DtmClient) -> str | None:
    try:
        return dtm.status(GID)
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError):
        return None


def _wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Doomed(CoordinatorProcess):
    """Dies at a named point the first time; a thread starts it again, and then it lives."""

    def __init__(self, directory: Path, point: str) -> None:
        super().__init__(directory, *SETTINGS)
        self.point: str | None = point
        self.revived = threading.Event()
        self._closing = False

    def command(self) -> list[str]:
        command = super().command()
        if self.point is None:
            return command
        serve = command.index("serve")
        return [sys.executable, "-m", "troth.testing.crash", self.point, "--", *command[serve:]]

    def watch(self) -> threading.Thread:
        thread = threading.Thread(target=self._revive)
        thread.start()
        return thread

    def _revive(self) -> None:
        assert self.process is not None
        self.process.wait()
        if not self._closing:
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.point = None
            self.start()
            self.revived.set()

    def close(self) -> None:
        self._closing = True
        super().close()


POINTS = {
    "saga": ("begin", "report", "commit-decision", "global-end"),
    "saga-refused": ("report", "rollback-decision", "global-end"),
    "tcc": ("register", "commit-decision", "global-end"),
    "tcc-aborted": ("rollback-decision",),
    "xa": ("commit-decision",),
    "msg": ("begin", "commit-decision", "global-end"),
}


@pytest.mark.soak
@pytest.mark.parametrize("where", ["before-write", "after-write"])
@pytest.mark.parametrize(("name", "write"), [(name, write) for name, writes in POINTS.items() for write in writes])
def test_killed_around_a_write(tmp_path: Path, service: BranchService, name: str, write: str, where: str) -> None:
    """At the points of `python -m troth.testing.crash --list`: decided and not written, written and nobody told."""
    start, status, expected = SCENARIOS[name]
    coordinator = Doomed(tmp_path, f"tc.{write}.{where}")
    watcher = None
    try:
        coordinator.start()
        watcher = coordinator.watch()
        dtm = DtmClient(coordinator.ready["dtm_http_port"])
        start(dtm, service)
        _wait(lambda: _status(dtm) == status)
        assert coordinator.revived.is_set(), "it never came to that point"
        assert [path for path, _ in groupby(service.paths(GID))] == expected
    finally:
        coordinator.close()
        if watcher is not None:
            watcher.join()


def test_what_was_answered_outlives_the_coordinator(tmp_path: Path, service: BranchService) -> None:
    """Prepared, registered, subscribed: each was durable when it was answered."""
    coordinator = CoordinatorProcess(tmp_path, *SETTINGS)
    try:
        coordinator.start()
        dtm = DtmClient(coordinator.ready["dtm_http_port"])
        persist(dtm, "prepare", gid=GID, trans_type="tcc", timeout_to_fail=100, branch_headers={"x-a": "b"})
        urls = {"confirm": service.url("/confirm"), "cancel": service.url("/cancel")}
        persist(dtm, "registerBranch", gid=GID, trans_type="tcc", branch_id="01", data="{}", **urls)
        assert dtm.get("subscribe", topic="t", url=service.url("/a"))[0] == 200
        coordinator.kill()
        coordinator.start()
        assert dtm.status(GID) == "prepared"
        body = {"gid": GID, "trans_type": "tcc", "branch_id": "01", "data": "{}", **urls}
        assert dtm.post("registerBranch", **body)[0] == 200  # again: the same branch
        assert dtm.post("registerBranch", **{**body, "data": "other"})[0] == 400
        service.say("/confirm", DONE)
        assert dtm.post("submit", gid=GID, trans_type="tcc", wait_result=True)[0] == 200
        assert service.paths(GID) == ["/confirm"]
        assert service.calls[0].headers["x-a"] == "b"
        message = {"gid": "m", "trans_type": "msg", "steps": [{"action": "topic://t"}], "wait_result": True}
        assert dtm.post("submit", **message)[0] == 200
        assert service.paths("m") == ["/a"]
    finally:
        coordinator.close()


@pytest.mark.soak
def test_another_coordinator_takes_over(
    tmp_path: Path, service: BranchService, new_postgres_database: Callable[[], str]
) -> None:
    """On a shared store: the leader is killed while a branch is called, and who stood by calls it again and goes on."""
    store = new_postgres_database()
    made = []
    for name in ("leader", "standby"):
        (tmp_path / name).mkdir()
        made.append(CoordinatorProcess(tmp_path / name, *SETTINGS, "lease.ttl=1s", "lease.poll=100ms", store=store))
    leader, standby = made

    def kill(called: Called) -> None:
        if called.path == "/b" and leader.process is not None and leader.process.poll() is None:
            leader.kill()

    service.on_call = kill
    try:
        leader.start()
        assert standby.start().ready["event"] == "standby"
        assert standby.get("/health")[0] == 503
        dtm = DtmClient(leader.ready["dtm_http_port"])
        with pytest.raises((urllib.error.URLError, http.client.HTTPException, ConnectionError)):
            dtm.post("submit", gid=GID, wait_result=True, **saga(service, "a", "b", "c"))
        assert standby.process is not None
        assert standby.process.stdout is not None
        standby.ready = json.loads(standby.process.stdout.readline())
        dtm = DtmClient(standby.ready["dtm_http_port"])
        dtm.ends_as(GID, "succeed")
        assert [path for path, _ in groupby(service.paths(GID))] == ["/a", "/b", "/c"]
        assert dtm.post("submit", gid=GID, wait_result=True, **saga(service, "a", "b", "c"))[0] == 200
    finally:
        for one in made:
            one.close()
