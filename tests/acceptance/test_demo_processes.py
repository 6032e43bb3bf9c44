"""The demo's process supervision, with small children."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from troth.demo.events import Begun, Ready
from troth.demo.processes import ChildFailed, Family

pytestmark = pytest.mark.engines

SPEAKER = """
import sys
from troth.demo.events import Begun, Ready, tell
from troth.demo.tethered import tether
tether()
print("this is no event", flush=True)
tell(Ready(address=sys.argv[1]))
tell(Begun(xid=sys.argv[1], timeout_s=1))
import threading; threading.Event().wait()
"""


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Family]:
    family = Family(tmp_path)
    yield family
    family.stop()
    assert family.children == ()


def test_what_others_say_meanwhile_is_kept(family: Family) -> None:
    children = [family.start(name, ("-c", SPEAKER, name)) for name in ("one", "two", "three")]
    for child in reversed(children):
        assert family.expect(child, Ready, 30).address == child.name
    begun: dict[str, str] = {}
    while len(begun) < 3:
        family.check()
        begun |= {said.who: said.event.xid for said in family.listen(0.1) if isinstance(said.event, Begun)}
    assert begun == {name: name for name in ("one", "two", "three")}
    assert all("this is no event" in child.log.read_text() for child in children)
    family.stop(children[1])
    assert [child.name for child in family.children] == ["one", "three"]


def test_a_child_that_ends_early_is_told_with_the_end_of_its_log(family: Family) -> None:
    child = family.start("short", ("-c", "raise SystemExit('no such luck')"))
    with pytest.raises(ChildFailed, match=r"short ended with status 1[\s\S]*no such luck"):
        family.expect(child, Ready, 30)


def test_a_child_that_does_not_listen_is_killed(family: Family) -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + SPEAKER
    child = family.start("stubborn", ("-c", stubborn, "x"))
    family.expect(child, Ready, 30)
    family.stop(child, within_s=0.2)
    assert child.process.returncode == -9
