"""The command: what it lists, refuses and runs; and docs/recovery.md, which shows its points."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from crash_outcomes import OUTCOMES, SENTENCES

from troth.testing.crash import seams
from troth.testing.crash.__main__ import main
from troth.testing.crash.points import POINTS

PAGE = Path(__file__).parents[2] / "docs" / "recovery.md"
BEGIN, END = "<!-- points -->\n", "<!-- end of points -->\n"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "troth.testing.crash", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_list_has_every_point(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in POINTS)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["no.such.point", "--", "serve"], "there is no point 'no.such.point'"),
        (["tc.begin.after-write:0", "--", "serve"], "N counts from 1"),
        (["tc.begin.after-write:2", "--nth", "3", "--", "serve"], "once"),
        (["tc.begin.after-write"], "say what to run"),
        (["--", "serve"], "name one point"),
    ],
)
def test_wrong_use_is_refused(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("hook", [seams.function, seams.coroutine, seams.flow])
@pytest.mark.parametrize(
    "seam", ["troth.gone:f", "troth.core.cell:Cell.gone", "troth.core.cell:gone", "troth.core.model:Phase.OPEN"]
)
def test_a_seam_that_is_gone_or_of_another_kind_is_told(hook: object, seam: str) -> None:
    with pytest.raises(seams.SeamGone, match=r"gone|any more"):
        hook(seam, lambda original: original)  # type: ignore[operator]


def test_any_python_program_dies_where_it_is_told_to(tmp_path: Path) -> None:
    script = tmp_path / "app.py"
    script.write_text(
        "import sys, tempfile, troth\n"
        "assert __name__ == '__main__' and sys.argv[1:] == ['--mine', 'x'], sys.argv\n"
        "with troth.embedded() as client:\n"
        "    for number in range(3):\n"
        "        with troth.transaction():\n"
        "            print(number, flush=True)\n"
        "raise SystemExit(7)\n"
    )
    died = run("tm.commit.before-send:2", "--", "python", str(script), "--mine", "x")
    assert (died.returncode, died.stdout) == (-signal.SIGKILL, "0\n1\n"), died.stderr
    assert "tm.commit.before-send reached 2 times, SIGKILL" in died.stderr
    lived = run("--nth", "4", "tm.commit.before-send", "--", "python", str(script), "--mine", "x")
    assert (lived.returncode, lived.stdout) == (7, "0\n1\n2\n"), lived.stderr
    assert "tm.commit.before-send reached 3 times\n" in lived.stderr


def test_a_module_and_a_line_of_code_run_as_in_the_interpreter() -> None:
    assert run("tm.begin.sent", "--", "python", "-c", "import sys; print(sys.argv)", "a").stdout == "['-c', 'a']\n"
    assert "usage" in run("tm.begin.sent", "--", "python", "-m", "json.tool", "--help").stdout


def table() -> str:
    lines = ["| point | when it dies | what comes of the transaction |", "|---|---|---|"]
    lines += [f"| `{point.name}` | {point.sentence} | {SENTENCES[point.name]} |" for point in POINTS.values()]
    return "\n".join(lines) + "\n"


def test_every_point_has_an_outcome_and_stands_in_the_docs() -> None:
    """To renew the page: put what `table()` gives between the two marks."""
    assert OUTCOMES.keys() == POINTS.keys()
    assert PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip() == table().strip()
