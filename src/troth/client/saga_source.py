"""What a Python file says of its sagas: steps, compensations, bodies, graphs. Read as a tree, never run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

Function = ast.FunctionDef | ast.AsyncFunctionDef
Body = Function | ast.Lambda

_STEPS: Final = frozenset({"step", "undoable"})
_SAGAS: Final = frozenset({"saga"})


@dataclass(frozen=True, slots=True)
class DeclaredStep:
    """A step. `says_none`: `compensate=None` is written there, so that it is meant."""

    function: Function
    title: str
    compensation: Body | None
    says_none: bool
    names_one: bool

    @property
    def name(self) -> str:
        """The function's name, by which bodies call it."""
        return self.function.name


@dataclass(slots=True)
class Source:
    """One file."""

    path: Path
    tree: ast.Module
    functions: dict[str, Function] = field(default_factory=dict)
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    steps: dict[str, DeclaredStep] = field(default_factory=dict)
    sagas: dict[str, Function] = field(default_factory=dict)


def read(path: Path) -> Source:
    """The file at `path`. Raises OSError, SyntaxError, UnicodeDecodeError."""
    return parsed(path.read_text(encoding="utf-8"), path)


def parsed(text: str, path: Path) -> Source:
    """`text` as a file. Raises SyntaxError."""
    source = Source(path, ast.parse(text, str(path)))
    nodes = list(ast.walk(source.tree))
    for node in nodes:
        if isinstance(node, Function):
            source.functions.setdefault(node.name, node)
        elif isinstance(node, ast.ClassDef):
            source.classes.setdefault(node.name, node)
    for node in nodes:
        if isinstance(node, Function):
            _take_decorated(source, node)
    return source


def _take_decorated(source: Source, function: Function) -> None:
    for decorator in function.decorator_list:
        call = decorator if isinstance(decorator, ast.Call) else None
        name = last_name(call.func if call else decorator)
        if name in _STEPS:
            source.steps[function.name] = _declared(source, function, call)
        elif name in _SAGAS:
            source.sagas[function.name] = function


def _declared(source: Source, function: Function, call: ast.Call | None) -> DeclaredStep:
    given = {} if call is None else {one.arg: one.value for one in call.keywords if one.arg}
    value = given.get("compensate")
    says_none = isinstance(value, ast.Constant) and value.value is None
    compensation: Body | None = None
    if isinstance(value, ast.Lambda):
        compensation = value
    elif value is not None:
        compensation = source.functions.get(last_name(value))
    title = given.get("name")
    named = title.value if isinstance(title, ast.Constant) and isinstance(title.value, str) else function.name
    return DeclaredStep(function, named, compensation, says_none, names_one=value is not None and not says_none)


def last_name(node: ast.expr) -> str:
    """`troth.step` and `step` are both step."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def called(call: ast.Call, source: Source) -> str:
    """The step or saga of this file that `call` calls (also by `step.keyed(…)(…)`, `saga.until(…)(…)`), or ""."""
    target = call.func
    if isinstance(target, ast.Call) and isinstance(target.func, ast.Attribute):
        target = target.func.value
    name = last_name(target)
    return name if name in source.steps or name in source.sagas else ""


def calls_in(body: ast.AST) -> Iterator[ast.Call]:
    """The calls in `body` in the order in which they stand there."""
    found = [node for node in ast.walk(body) if isinstance(node, ast.Call)]
    yield from sorted(found, key=lambda call: (call.lineno, call.col_offset))


def graphs_in(body: Function) -> dict[str, dict[str, tuple[ast.Call, str, frozenset[str]]]]:
    """The graphs that `body` builds, by variable: node → (its call, its step, the nodes that it comes after)."""
    graphs: dict[str, dict[str, tuple[ast.Call, str, frozenset[str]]]] = {}
    for call in calls_in(body):
        target = call.func
        if not (isinstance(target, ast.Attribute) and target.attr == "add" and isinstance(target.value, ast.Name)):
            continue
        if len(call.args) < 2 or not _text(call.args[0]):
            continue
        step = last_name(call.args[1])
        graphs.setdefault(target.value.id, {})[_text(call.args[0])] = (call, step, _after(call))
    return graphs


def _after(call: ast.Call) -> frozenset[str]:
    names = set()
    for node in ast.walk(call):
        if isinstance(node, ast.Call) and last_name(node.func) == "Ref" and node.args:
            names.add(_text(node.args[0]))
    for keyword in call.keywords:
        if keyword.arg == "after" and isinstance(keyword.value, (ast.Tuple, ast.List)):
            names |= {_text(one) for one in keyword.value.elts}
    return frozenset(names - {""})


def _text(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
