"""Kills a program at a crash point.

python -m troth.testing.crash --list
python -m troth.testing.crash tc.commit-decision.after-write -- serve --store sqlite:///troth.db
python -m troth.testing.crash rm.local-commit.after:2 -- python app.py --its-own-options
python -m troth.testing.crash --count -- python app.py
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NoReturn

from troth.cli.main import app
from troth.testing.crash.point import Point, Trigger
from troth.testing.crash.points import POINTS
from troth.testing.crash.seams import SeamGone

WRONG_USE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. The exit status is the program's own, if it ends; 2 for wrong options or a seam that is gone."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    place = given.index("--") if "--" in given else len(given)
    chosen = _parser().parse_args(given[:place])
    program = given[place + 1 :]
    if chosen.list:
        _list()
        return 0
    if chosen.count == bool(chosen.point):
        _refuse("name one point (see --list), or say --count")
    if not program:
        _refuse("say what to run behind `--`: a troth command (serve …), or python and a script")
    triggers = [_attach(point, 0) for point in POINTS.values()] if chosen.count else [_attach(*_chosen(chosen))]
    try:
        _run(program)
    finally:
        for trigger in triggers:
            print(f"troth.testing.crash: {trigger.name} reached {trigger.hits} times", file=sys.stderr)  # noqa: T201
        sys.stderr.flush()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m troth.testing.crash",
        description="Run a program that kills itself by SIGKILL at a named point.",
        epilog="Behind `--`: a troth command (serve --store …), or python with a script, -m MODULE or -c CODE.",
    )
    parser.add_argument("point", nargs="?", metavar="POINT[:N]", help="where to die; N: at the N-th time")
    parser.add_argument("--nth", type=int, metavar="N", help="at the N-th time [1]")
    parser.add_argument("--list", action="store_true", help="all points")
    parser.add_argument("--count", action="store_true", help="die nowhere; say at the end how often each was reached")
    return parser


def _list() -> None:
    for role, points in groupby(POINTS.values(), lambda point: point.role):
        print(f"{role}:")  # noqa: T201 - this is a command
        for point in points:
            print(f"  {point.name:34} {point.sentence}")  # noqa: T201


def _chosen(chosen: argparse.Namespace) -> tuple[Point, int]:
    name, colon, number = str(chosen.point).partition(":")
    if name not in POINTS:
        _refuse(f"there is no point {name!r}: see --list")
    if colon and (chosen.nth is not None or not number.isdecimal()):
        _refuse(f"say {name}:N or --nth N, once, with a number")
    nth = int(number) if colon else (1 if chosen.nth is None else chosen.nth)
    if nth < 1:
        _refuse("N counts from 1")
    return POINTS[name], nth


def _attach(point: Point, nth: int) -> Trigger:
    trigger = Trigger(point.name, nth)
    try:
        point.attach(trigger)
    except SeamGone as gone:
        _refuse(f"{point.name} cannot be attached: {gone}")
    return trigger


def _run(program: list[str]) -> None:
    head, *rest = program
    if os.path.basename(head).startswith("python"):
        _run_python(rest)
    elif head.endswith(".py"):
        _run_script(program)
    else:
        app(rest if head == "troth" else program, prog_name="troth")


def _run_python(arguments: list[str]) -> None:
    """As the interpreter does it, in this process."""
    if arguments[:1] == ["-m"] and len(arguments) > 1:
        sys.argv = arguments[1:]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[:1] == ["-c"] and len(arguments) > 1:
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    elif arguments and not arguments[0].startswith("-"):
        _run_script(arguments)
    else:
        _refuse("behind python: a script, -m MODULE or -c CODE; options of the interpreter go before this module")


def _run_script(arguments: list[str]) -> None:
    sys.argv = arguments
    sys.path[0] = str(Path(arguments[0]).resolve().parent)
    runpy.run_path(arguments[0], run_name="__main__")


def _refuse(sentence: str) -> NoReturn:
    print(f"troth.testing.crash: {sentence}", file=sys.stderr)  # noqa: T201
    raise SystemExit(WRONG_USE)


if __name__ == "__main__":
    sys.exit(main())
