"""Many sagas at once at services that refuse, fail and put off at random, the coordinator killed again and again: each
ends all done or all undone, and whoever was answered was told how it ended.
"""

import http.client
import random
import threading
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path

import pytest

from dtm_service import BROKEN, DONE, ONGOING, REFUSED, BranchService, Called, DtmClient, saga
from fixtures_coordinator import CoordinatorProcess

pytestmark = [pytest.mark.engines, pytest.mark.soak]

SAGAS = 120
CLIENTS = 12
KILLS = 4
STEPS = ("a", "b", "c")
LOST = (urllib.error.URLError, http.client.HTTPException, ConnectionError)


class Fate(BranchService):
    """Answers by the gid's own chance: what a step has said for good it says again."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed

    def answer_to(self, called: Called) -> tuple:
        with self._lock:
            self.calls.append(called)
            again = sum(one.path == called.path and one.query == called.query for one in self.calls)
        chance = random.Random(f"{self._seed} {called.query['gid']} {called.path}")
        putting_off = chance.choice(([], [], [BROKEN], [ONGOING, BROKEN]))
        last = REFUSED if chance.random() < 0.12 and not called.path.endswith("-undo") else DONE
        return putting_off[again - 1] if again <= len(putting_off) else last


def drive(dtm: DtmClient, fate: Fate, gids: list[str], answers: dict[str, int]) -> None:
    """Submit each saga until it is answered for good."""
    while gids:
        gid = gids.pop()
        while True:
            try:
                status, _ = dtm.post("submit", gid=gid, wait_result=True, **saga(fate, *STEPS))
            except LOST:
                time.sleep(0.05)
                continue
            if status in (200, 409):
                answers[gid] = status
                break
            assert status in (425, 503), status


def judge(dtm: DtmClient, fate: Fate, gid: str, answer: int) -> None:
    status = dtm.status(gid)
    paths = fate.paths(gid)
    if answer == 200:
        assert status == "succeed"
        assert set(paths) == {f"/{name}" for name in STEPS}
        return
    dtm.ends_as(gid, "failed")
    paths = fate.paths(gid)
    for name in STEPS:
        ran, undone = f"/{name}" in paths, f"/{name}-undo" in paths
        assert ran == undone, (gid, paths)
    undos = list(dict.fromkeys(path for path in paths if path.endswith("-undo")))
    assert undos == sorted(undos, reverse=True), (gid, paths)


def test_sagas_under_kills(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    coordinator = CoordinatorProcess(tmp_path, "dtm.retry_interval=50ms", "dtm.request_timeout=2s")
    fate, answers = Fate(seed), {}
    gids = [f"trip-{number}" for number in range(SAGAS)]
    try:
        coordinator.start()
        dtm = DtmClient(coordinator.ready["dtm_http_port"])
        threads = [threading.Thread(target=drive, args=(dtm, fate, gids, answers)) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for kill in range(1, KILLS + 1):
            _until(lambda kill=kill: len(answers) >= kill * SAGAS // (KILLS + 2))
            coordinator.kill()
            coordinator.start()
        for thread in threads:
            thread.join(120)
        assert len(answers) == SAGAS
        assert set(answers.values()) == {200, 409}
        for gid, answer in answers.items():
            judge(dtm, fate, gid, answer)
    finally:
        coordinator.close()
        fate.close()


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
