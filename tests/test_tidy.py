"""House rules as tests (CONTRIBUTING): small functions and files, imports at the top, no module-level mutable state,
no registry host, no stub behind a documented name, and true links in the docs.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 500
DRAWERS = {"util", "utils", "helper", "helpers", "manager", "managers", "common", "misc"}
HOSTS = re.compile(
    "|".join(
        rf"{name}\.{end}"
        for name, end in [
            ("pypi", "org"),
            ("pythonhosted", "org"),
            (r"repo1?\.maven", "org"),
            ("proxy.golang", "org"),
            (r"registry\.npmjs", "org"),
            ("crates", "io"),
            (r"deb\.debian", "org"),
        ]
    )
)


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(module: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def tracked() -> list[Path]:
    """What git tracks or would track; without git (an unpacked archive), every file of ours."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        folders = ("src", "tests", "docs", "scripts", "bench")
        return [p for folder in folders for p in (ROOT / folder).rglob("*.*") if p.is_file()]
    return [ROOT / name for name in listed if (ROOT / name).is_file()]


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_functions_and_files_are_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_FILE_LINES, f"{named(path)} has {lines} lines"
    for node in functions(tree(path)):
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        assert length <= MAX_FUNCTION_LINES, f"{named(path)}:{node.lineno} {node.name} has {length} lines"


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_imports_stand_at_the_top(path: Path) -> None:
    inside = [
        f"{named(path)}:{node.lineno}"
        for function in functions(tree(path))
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert not inside


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_no_mutable_state_in_modules(path: Path) -> None:
    mutable = (ast.Dict, ast.List, ast.Set, ast.DictComp, ast.ListComp, ast.SetComp)
    found = [
        f"{named(path)}:{node.lineno}"
        for node in tree(path).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and isinstance(node.value, mutable)
        and "__all__" not in ast.dump(node.targets[0] if isinstance(node, ast.Assign) else node.target)
    ]
    assert not found, "wrap it in MappingProxyType, tuple or frozenset, or move it into an object"


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_nothing_documented_is_a_stub(path: Path) -> None:
    raised = [
        f"{named(path)}:{node.lineno}"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Raise) and node.exc is not None and "NotImplementedError" in ast.dump(node.exc)
    ]
    assert not raised


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_modules_say_what_they_are_for(path: Path) -> None:
    assert ast.get_docstring(tree(path)), f"{named(path)} has no docstring"


def test_no_drawers() -> None:
    assert not [named(path) for path in SOURCES if DRAWERS & set(path.with_suffix("").parts)]


def test_no_registry_host_is_named() -> None:
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if HOSTS.search(text):
            found.append(named(path))
    assert not found


def test_uv_lock_is_not_tracked() -> None:
    assert ROOT / "uv.lock" not in tracked()


def test_links_in_the_docs_lead_somewhere() -> None:
    link = re.compile(r"\[[^\]]+\]\((?!https?:|mailto:|#)([^)#\s]+)")
    dead = [
        f"{named(page)}: {target}"
        for page in tracked()
        if page.suffix == ".md"
        for target in link.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not dead
