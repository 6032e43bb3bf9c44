"""`troth lint` and the diagrams, on files: each rule finds what it is for, and leaves alone what is right."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from typer.testing import CliRunner

import troth
from troth.cli.main import app
from troth.client.saga_diagram import of_definition, of_run
from troth.client.saga_lint import lint
from troth.client.saga_source import parsed

HEAD = """
    import os, time, uuid, random
    from typing import Callable
    from dataclasses import dataclass
    import troth
    from troth import step, saga, Graph, Ref

    def cancel(ctx): ...
"""


def found(text: str) -> list[tuple[str, str]]:
    """Rule and text of each finding."""
    source = parsed(textwrap.dedent(HEAD) + textwrap.dedent(text), Path("trip.py"))
    return [(finding.rule, finding.text) for finding in lint(source)]


def rules(text: str) -> list[str]:
    return [rule for rule, _ in found(text)]


def test_a_step_without_a_compensation() -> None:
    assert found("@troth.step()\ndef fly(): ...\n") == [
        ("no-compensation", "step fly has no compensation; write compensate=None if it has nothing to take back")
    ]
    assert rules("@step(name='x')\nasync def fly(): ...\n") == ["no-compensation"]
    assert rules("@troth.step(compensate=None)\ndef look(): ...\n") == []
    assert rules("@troth.step(compensate=cancel)\ndef fly(): ...\n") == []
    assert rules("@troth.undoable(compensate=elsewhere.cancel)\ndef fly(): ...\n") == []


@pytest.mark.parametrize(
    "annotation", ["Callable[[], None]", "'threading.Lock'", "list[Session]", "Plain", "IO | None"]
)
def test_arguments_that_no_record_can_hold(annotation: str) -> None:
    (rule, text), *more = found(f"""
        class Plain:
            def __init__(self): self.x = 1

        @troth.step(compensate=cancel)
        def fly(who: str, what: {annotation}): ...
    """)
    assert rule == "not-serialisable"
    assert "the argument what of step fly is a" in text
    assert not more


def test_arguments_that_a_record_holds() -> None:
    assert not found("""
        @dataclass
        class Person:
            name: str

        class Room(msgspec.Struct):
            number: int

        @troth.step(compensate=cancel)
        def fly(who: Person, rooms: list[Room], when: datetime, notes) -> Person | None: ...
    """)


def test_values_in_a_body_that_no_record_can_hold() -> None:
    text = """
        @troth.step(compensate=cancel)
        def fly(what): ...

        @troth.saga()
        def trip():
            fly(open("x"))
            fly.keyed("second")(what=lambda: 1)
            print(lambda: 1)
    """
    assert [text for _, text in found(text)] == [
        "fly is given what open() returns, which cannot be kept; pass a key instead",
        "fly is given a function, which cannot be kept; pass a key instead",
    ]


def test_a_result_that_no_record_can_hold() -> None:
    assert rules("@step(compensate=cancel)\ndef fly() -> Connection: ...\n") == ["not-serialisable"]


def test_a_cycle_in_a_graph() -> None:
    text = """
        @troth.saga()
        def trip():
            graph = Graph()
            graph.add("a", fly, after=("c",))
            graph.add("b", stay, Ref("a"))
            graph.add("c", pay, [Ref("b")])
            graph.add("d", pay, after=("a",))
            graph.run()
    """
    assert found(text) == [("cycle", "steps wait for each other: a after c after b after a")]
    assert not found(text.replace(', after=("c",)', ""))


def test_sagas_that_run_each_other() -> None:
    text = """
        @troth.saga()
        def first(): second()

        @troth.saga()
        def second(): third()

        @troth.saga()
        def third(): first()
    """
    assert found(text) == [("cycle", "sagas run each other: first in second in third in first")]
    assert not found(text.replace("def third(): first()", "def third(): ..."))


def test_a_compensation_that_reads_what_its_step_deletes() -> None:
    text = """
        def restore(ctx):
            db.execute("INSERT INTO seats SELECT id, who FROM bookings WHERE id = ?", (ctx["id"],))

        @step(compensate=restore)
        def unbook(id):
            db.execute('DELETE FROM "bookings" WHERE id = ?', (id,))
    """
    assert [rule for rule, _ in found(text)] == ["reads-what-is-deleted"]
    assert not found(text.replace("SELECT id, who FROM bookings WHERE id = ?", "VALUES (?)"))


def test_a_compensation_that_reads_the_file_its_step_removes() -> None:
    text = """
        def restore(ctx):
            shutil.copy(ctx["path"], "/backup")

        @step(compensate=restore)
        def clear(path):
            os.remove(path)
    """
    assert [text for _, text in found(text)] == [
        "the compensation of clear reads the file path, which the step removes; let the step move it"
    ]
    assert not found(text.replace('ctx["path"]', "ctx.result"))


def test_clocks_and_chance_in_a_body() -> None:
    text = """
        @troth.saga()
        def trip():
            at = time.time()
            number = uuid.uuid4()

        def elsewhere():
            return time.time()
    """
    assert rules(text) == ["differs-in-each-run"] * 2


# --- the commands, and diagrams --------------------------------------------------------------------------------------

TRIP = """
import troth

def cancel(ctx): ...

@troth.step(compensate=cancel)
def fly(): ...

@troth.step(compensate=None)
def look(): ...

@troth.saga()
def trip():
    fly()
    troth.parallel(lambda: fly(), lambda: look())
    graph = troth.Graph()
    graph.add("one", fly)
    graph.add("two", look, troth.Ref("one"))
    graph.run()
"""


def test_the_command_says_where_and_exits_with_one(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(TRIP)
    assert CliRunner().invoke(app, ["lint", str(tmp_path)]).exit_code == 0
    (tmp_path / "bad.py").write_text(TRIP.replace("compensate=None", ""))
    result = CliRunner().invoke(app, ["lint", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output.startswith(f"{tmp_path}/bad.py:10: no-compensation: step look has no compensation")
    (tmp_path / "broken.py").write_text("def (")
    assert CliRunner().invoke(app, ["lint", str(tmp_path / "broken.py")]).exit_code == 2


def test_a_definition_is_drawn(tmp_path: Path) -> None:
    assert of_definition(parsed(TRIP, Path("trip.py")), "trip").splitlines() == [
        "flowchart TD",
        '    n1(["trip"])',
        '    n2["fly"]',
        '    n3["cancel"]:::undone',
        "    n2 -.-> n3",
        "    n1 --> n2",
        '    n4["fly"]',
        '    n5["cancel"]:::undone',
        "    n4 -.-> n5",
        "    n2 --> n4",
        '    n6["look"]',
        "    n2 --> n6",
        '    n7["fly"]',
        '    n8["cancel"]:::undone',
        "    n7 -.-> n8",
        '    n9["look"]',
        "    n4 --> n7",
        "    n6 --> n7",
        "    n7 --> n9",
        '    n10(["end"])',
        "    n9 --> n10",
        "    classDef undone fill:#e8e4f3,stroke:#5b4b8a,color:#241b3d",
    ]
    (tmp_path / "trip.py").write_text(TRIP)
    result = CliRunner().invoke(app, ["saga", "draw", str(tmp_path / "trip.py"), "tour"])
    assert (result.exit_code, "has no saga tour; it has trip" in result.output) == (1, True)


def test_a_run_is_drawn() -> None:
    def branch(kind: str, key: str, status: str = "PhaseOne_Done", error: str | None = None) -> dict[str, object]:
        return {"branch_type": kind, "resource_id": key, "status": status, "last_error": error}

    shown = {
        "name": "trip",
        "xid": "h:1:2",
        "status": "RollbackFailed",
        "outcome": None,
        "branches": [
            branch("RUNNER", "saga:app:trip", "Registered"),
            branch("RECORD", "fly"),
            branch("RECORD", "pay", "PhaseOne_Failed"),
            branch("RECORD", "~pay"),
            branch("RECORD", "!", "PhaseOne_Failed"),
            branch("RECORD", "?fly"),
            branch("SAGA", "undo:app:car", "PhaseTwo_Rollbacked"),
            branch("SAGA", "undo:app:fly", error='PhaseTwo_RollbackFailed_Unretryable: needs-human: it "fails"'),
        ],
    }
    lines = of_run(shown).splitlines()
    assert lines[1:] == [
        '    n1(["trip h:1:2"])',
        '    n2["fly done"]:::done',
        "    n1 --> n2",
        '    n3["pay failed"]:::failed',
        "    n2 --> n3",
        '    n4["pay compensated"]:::undone',
        "    n3 --> n4",
        '    n5["the body failed"]:::failed',
        "    n4 --> n5",
        '    n6["car compensated"]:::undone',
        "    n5 --> n6",
        '    n7["compensate fly: needs-human: it #quot;fails#quot;"]:::human',
        "    n6 --> n7",
        '    n8(["RollbackFailed"])',
        "    n7 --> n8",
        *(line for line in lines if "classDef" in line),
    ]
    assert sum("classDef" in line for line in lines) == 4


@troth.step(name="drawn-step", compensate=None)
def drawn_step() -> None:
    """Nothing."""


@troth.saga(name="drawn")
def drawn() -> None:
    drawn_step()


def test_a_saga_draws_itself() -> None:
    assert [line.strip() for line in drawn.diagram().splitlines()[:4]] == [
        "flowchart TD",
        'n1(["drawn"])',
        'n2["drawn_step"]',
        "n1 --> n2",
    ]
