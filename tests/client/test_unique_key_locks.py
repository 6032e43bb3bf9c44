"""Locks of unique keys are ours: they go to a coordinator that has said it is of our kind, not to a Seata server."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import troth
from troth.client.client import Client
from troth.wire.seata.lock_wait import agreed
from troth.wire.seata.messages import (
    BranchRegisterRequest,
    GlobalLockQueryRequest,
    GlobalLockQueryResponse,
    RegisterRMRequest,
    RegisterRMResponse,
)

TABLES = """
CREATE TABLE person (id INTEGER PRIMARY KEY, mail TEXT UNIQUE);
INSERT INTO person VALUES (1, 'x@y');
CREATE TABLE "a#b" (id INTEGER PRIMARY KEY, n INTEGER);
INSERT INTO "a#b" VALUES (7, 0);
"""
OF_SEATA = "a#b:7;person:1"
OURS = f"{OF_SEATA};person#sqlite_autoindex_person_1:x@y,new"


@pytest.fixture
def url(tmp_path: Path) -> str:
    with closing(sqlite3.connect(tmp_path / "shop.db")) as raw:
        raw.executescript(TABLES)
    made = f"sqlite:///{tmp_path}/shop.db"
    troth.at.init(made)
    return made


def write(url: str, client: Client, mail: str = "new") -> None:
    with closing(troth.at.connect(url, client=client)) as db, db:
        db.execute("UPDATE person SET mail = ?", (mail,))
        db.execute('UPDATE "a#b" SET n = n + 1')


@pytest.mark.parametrize(("version", "locks"), [("2.3.0", OF_SEATA), (agreed("2.3.0"), OURS)], ids=["seata", "ours"])
def test_what_a_branch_and_a_question_name(
    url: str, coordinator: Any, connect: Callable[..., Client], version: str, locks: str
) -> None:
    """The kind of the coordinator is known from its answer to the registration of that connection."""
    coordinator.script(RegisterRMRequest, RegisterRMResponse(identified=True, version=version))
    coordinator.script(GlobalLockQueryRequest, GlobalLockQueryResponse(lockable=True))
    client = connect()
    with troth.join("127.0.0.1:8091:1"):
        write(url, client)
    with troth.global_lock():
        write(url, client, "newer")
    (branch,) = coordinator.of(BranchRegisterRequest)
    assert branch.lock_key == locks
    (question,) = coordinator.of(GlobalLockQueryRequest)
    assert question.lock_key == locks.replace(":x@y,new", ":new,newer")


def test_after_a_reconnect_the_coordinator_that_answers_then_counts(url: str, coordinator: Any, client: Client) -> None:
    coordinator.script(
        RegisterRMRequest,
        RegisterRMResponse(identified=True, version=agreed("2.3.0")),
        RegisterRMResponse(identified=True, version="2.3.0"),
    )
    with troth.join("127.0.0.1:8091:1"):
        write(url, client)
        coordinator.cut_all()
        coordinator.wait_for(RegisterRMRequest, 2)
        write(url, client, "x@y")
    assert [branch.lock_key for branch in coordinator.of(BranchRegisterRequest)] == [OURS, OF_SEATA]


def test_our_own_coordinator_keeps_a_freed_value_for_the_undo(url: str) -> None:
    """Without that lock another transaction takes the value, and the undo finds it taken, for ever."""
    with (
        troth.embedded(lock__cold_wait="50ms") as client,
        closing(troth.at.connect(url, client=client, isolation_level=None)) as db,
    ):
        with pytest.raises(ZeroDivisionError), troth.transaction(name="frees"):  # noqa: PT012
            db.execute("DELETE FROM person")
            with (
                pytest.raises(troth.LockConflict) as caught,
                troth.transaction(name="takes", propagation=troth.Propagation.REQUIRES_NEW),
            ):
                db.execute("INSERT INTO person VALUES (2, 'x@y')")
            assert caught.value.key == "person#sqlite_autoindex_person_1:x@y"
            raise ZeroDivisionError
        assert db.execute("SELECT * FROM person").fetchall() == [(1, "x@y")]
