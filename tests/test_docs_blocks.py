"""What the pages show: Python that parses, names and commands that exist, first blocks that run."""

from __future__ import annotations

import ast
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

import troth
from troth.cli.main import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "examples" / "README.md", *(ROOT / "docs").rglob("*.md")])
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
COMMAND = re.compile(r"(?:^\$ |`)troth ((?:[^`\n#…\\]|…)+)", re.MULTILINE)
WORD = re.compile(r"--[a-z-]*[a-z]")


def blocks(page: Path) -> list[str]:
    return PYTHON.findall(page.read_text(encoding="utf-8"))


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_there_is_something_to_look_at() -> None:
    assert sum(len(blocks(page)) for page in PAGES) > 30
    assert sum(len(COMMAND.findall(page.read_text(encoding="utf-8"))) for page in PAGES) > 60


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_parses_and_its_names_are_there(page: Path) -> None:
    modules = [ast.parse(block) for block in blocks(page)]
    nodes = [node for module in modules for node in ast.walk(module)]
    imported = tuple(name for node in nodes if isinstance(node, ast.Import) for name in names(node))
    for node in nodes:
        if isinstance(node, ast.Attribute) and (path := dotted(node)) and not path.startswith(imported):
            resolve(path, name_of(page))


def names(line: ast.Import) -> list[str]:
    """What an import binds beyond the package itself."""
    return [one.name for one in line.names if one.name.startswith("troth.")]


def dotted(node: ast.expr) -> str:
    """`troth.a.b` of an expression that is such a path, else nothing."""
    if isinstance(node, ast.Name):
        return "troth" if node.id == "troth" else ""
    path = dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{path}.{node.attr}" if path and isinstance(node, ast.Attribute) else ""


def resolve(path: str, place: str) -> None:
    """Raises AttributeError: there is no such name. Packages that something else has imported do not count."""
    first, *others = path.split(".")[1:]
    assert first in troth.__all__, f"{place}: {path} needs an import"
    found: Any = getattr(troth, first)
    for name in others:
        found = getattr(found, name)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_their_options_are_there(page: Path) -> None:
    for text in COMMAND.findall(page.read_text(encoding="utf-8")):
        if re.match("[a-z]+", text):  # not an option of `troth` itself
            command, words = found(text.split(), f"{name_of(page)}: troth {text}")
            known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
            wanted = {WORD.match(word)[0] for word in words if word.startswith("--")}  # type: ignore[index]
            assert wanted <= known, f"{name_of(page)}: troth {text}"


def found(words: list[str], place: str) -> tuple[Any, list[str]]:
    """The command that `words` begin with, and the rest of them."""
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "get_command"):
        inner = command.get_command(None, words[0])
        if inner is None and command.invoke_without_command:
            break  # a group that is a command, too: `troth demo --keep`
        assert inner is not None, f"{place}: there is no command {words[0]}"
        command, words = inner, words[1:]
    return command, words


STUBS = """
import troth

class Anything:  # a service: every method gives its own name
    def __getattr__(self, name):
        return lambda *_, **__: name

airline = http = Anything()

@troth.step(compensate=None)
def book_hotel(customer, day): return "room 7"

@troth.step(compensate=None)
def rent_car(customer, day): return "a red one"

@troth.step(compensate=None)
def pay(customer): pass

with troth.embedded() as client:
    troth.init = lambda *_: client  # the page's own coordinator is at a port that others may have
"""


def run_first_block(page: str, then: str, folder: Path) -> str:
    """In a process of its own: what a page declares stays declared."""
    program = STUBS + indent(f"{blocks(ROOT / 'docs' / 'modes' / page)[0]}\n{then}", "    ")
    ended = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_the_page_about_sagas_books_a_trip(tmp_path: Path) -> None:
    said = run_first_block("saga.md", "print(trip('bob', '2026-12-24'))", tmp_path)
    assert said == "['book', 'room 7', 'a red one']"


def test_the_page_about_tcc_transfers_money(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "bank.db")) as bank, bank:
        bank.execute("CREATE TABLE account (id TEXT PRIMARY KEY, balance INTEGER, frozen INTEGER DEFAULT 0)")
        bank.execute("INSERT INTO account (id, balance) VALUES ('A', 1000)")
    assert CliRunner().invoke(app, ["tcc", "init", f"sqlite:///{tmp_path}/bank.db"]).exit_code == 0
    run_first_block("tcc.md", "transfer()", tmp_path)
    with closing(sqlite3.connect(tmp_path / "bank.db")) as bank:
        assert bank.execute("SELECT * FROM account").fetchall() == [("A", 800, 0)]
