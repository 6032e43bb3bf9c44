"""What can be seen to be wrong with a file's sagas before they run (`troth lint`)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from troth.client.modes.saga_graph import cycle_in
from troth.client.saga_source import Body, DeclaredStep, Function, Source, called, calls_in, graphs_in, last_name

_NEVER_PLAIN: Final = frozenset(
    [
        "AsyncIterator",
        "AsyncSession",
        "Awaitable",
        "BinaryIO",
        "Callable",
        "Connection",
        "Coroutine",
        "Cursor",
        "Engine",
        "Event",
        "Future",
        "Generator",
        "IO",
        "Iterator",
        "Lock",
        "Logger",
        "Request",
        "Response",
        "Semaphore",
        "Session",
        "Task",
        "TextIO",
        "Thread",
        "socket",
    ]
)
"""Types of which nothing can be kept as JSON."""
_PLAIN_BASES: Final = frozenset(
    [
        "BaseModel",
        "Enum",
        "IntEnum",
        "NamedTuple",
        "StrEnum",
        "Struct",
        "TypedDict",
        "dict",
        "float",
        "int",
        "list",
        "str",
    ]
)
_CHANGING: Final = frozenset(
    [
        "datetime.now",
        "datetime.today",
        "datetime.utcnow",
        "date.today",
        "os.getenv",
        "os.urandom",
        "random.choice",
        "random.randint",
        "random.random",
        "random.uniform",
        "secrets.token_hex",
        "secrets.token_urlsafe",
        "time.monotonic",
        "time.time",
        "uuid.uuid1",
        "uuid.uuid4",
    ]
)
_DELETED: Final = re.compile(
    r"\b(?:DELETE\s+FROM|DROP\s+TABLE(?:\s+IF\s+EXISTS)?|TRUNCATE(?:\s+TABLE)?)\s+([\w.\"`]+)", re.I
)
_READ: Final = re.compile(r"\bSELECT\b.*?\bFROM\s+([\w.\"`]+)|\bUPDATE\s+([\w.\"`]+)\s+SET", re.I | re.S)
_REMOVING: Final = frozenset(["remove", "rmtree", "rmdir", "unlink"])
_OPENING: Final = frozenset(
    ["copy", "copy2", "copyfile", "copytree", "listdir", "move", "open", "read_bytes", "read_text", "rename"]
)


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing that is wrong, and where. `rule` names its kind."""

    path: Path
    line: int
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.text}"


def lint(source: Source) -> list[Finding]:
    """All findings of a file, by line."""
    found: list[Finding] = []
    for step in source.steps.values():
        found += _uncompensated(source, step)
        found += _not_plain(source, step.function, f"step {step.name}")
        found += _reads_what_is_deleted(source, step)
    for saga in source.sagas.values():
        found += _not_plain(source, saga, f"saga {saga.name}")
        found += _odd_arguments(source, saga)
        found += _changing_bodies(source, saga)
    for function in source.functions.values():
        found += _cycles_of_graphs(source, function)
    found += _cycles_of_sagas(source)
    return sorted(set(found))


def _uncompensated(source: Source, step: DeclaredStep) -> Iterator[Finding]:
    if not step.says_none and not step.names_one:
        text = f"step {step.name} has no compensation; write compensate=None if it has nothing to take back"
        yield Finding(source.path, step.function.lineno, "no-compensation", text)


# --- what cannot be kept ---------------------------------------------------------------------------------------------


def _not_plain(source: Source, function: Function, what: str) -> Iterator[Finding]:
    arguments = function.args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        name = "" if argument.annotation is None else _not_plain_in(source, argument.annotation)
        if name:
            text = f"the argument {argument.arg} of {what} is a {name}, which cannot be kept; pass a key instead"
            yield Finding(source.path, argument.lineno, "not-serialisable", text)
    name = "" if function.returns is None else _not_plain_in(source, function.returns)
    if name and what.startswith("step"):
        text = f"{what} returns a {name}, which cannot be kept; return a key instead"
        yield Finding(source.path, function.lineno, "not-serialisable", text)


def _not_plain_in(source: Source, annotation: ast.expr) -> str:
    """The name of a type in `annotation` that JSON cannot hold, or ""."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        try:
            annotation = ast.parse(annotation.value, mode="eval").body
        except SyntaxError:
            return ""
    for node in ast.walk(annotation):
        name = last_name(node) if isinstance(node, (ast.Name, ast.Attribute)) else ""
        if name in _NEVER_PLAIN or (name in source.classes and not _is_plain(source.classes[name])):
            return name
    return ""


def _is_plain(declared: ast.ClassDef) -> bool:
    """Whether records can hold it: dataclasses, structs, enums, typed dicts; and what derives from who knows what."""
    decorators = {last_name(one.func if isinstance(one, ast.Call) else one) for one in declared.decorator_list}
    if decorators & {"attrs", "dataclass", "define", "frozen"}:
        return True
    bases = {last_name(base.value if isinstance(base, ast.Subscript) else base) for base in declared.bases}
    return bool(bases - {"object", "ABC", "Generic", "Protocol"})


def _odd_arguments(source: Source, saga: Function) -> Iterator[Finding]:
    for call in calls_in(saga):
        name = called(call, source)
        for value in (*call.args, *(keyword.value for keyword in call.keywords)) if name else ():
            odd = "a function" if isinstance(value, ast.Lambda) else ""
            if isinstance(value, ast.Call) and last_name(value.func) in ("open", "Lock", "connect", "Session"):
                odd = f"what {last_name(value.func)}() returns"
            if odd:
                text = f"{name} is given {odd}, which cannot be kept; pass a key instead"
                yield Finding(source.path, value.lineno, "not-serialisable", text)


def _changing_bodies(source: Source, saga: Function) -> Iterator[Finding]:
    """Who goes on with a saga runs its body again: what differs then may lead to other steps."""
    for call in calls_in(saga):
        target = call.func
        name = f"{last_name(target.value)}.{target.attr}" if isinstance(target, ast.Attribute) else ""
        if name in _CHANGING:
            text = f"the body of saga {saga.name} calls {name}(): it differs in each run; call it in a step"
            yield Finding(source.path, call.lineno, "differs-in-each-run", text)


# --- cycles ----------------------------------------------------------------------------------------------------------


def _cycles_of_graphs(source: Source, function: Function) -> Iterator[Finding]:
    for nodes in graphs_in(function).values():
        ring = cycle_in({name: after for name, (_, _, after) in nodes.items()})
        if ring:
            line = nodes[ring[0]][0].lineno
            yield Finding(source.path, line, "cycle", f"steps wait for each other: {' after '.join((*ring, ring[0]))}")


def _cycles_of_sagas(source: Source) -> Iterator[Finding]:
    inner = {}
    for name, saga in source.sagas.items():
        inner[name] = frozenset(one for call in calls_in(saga) if (one := called(call, source)) in source.sagas)
    ring = cycle_in(inner)
    if ring:
        line = source.sagas[ring[0]].lineno
        yield Finding(source.path, line, "cycle", f"sagas run each other: {' in '.join((*ring, ring[0]))}")


# --- compensations that come too late --------------------------------------------------------------------------------


def _reads_what_is_deleted(source: Source, step: DeclaredStep) -> Iterator[Finding]:
    compensation = step.compensation
    if compensation is None:
        return
    line = compensation.lineno
    for table in sorted(_tables_deleted(step.function) & _tables_read(compensation)):
        text = (
            f"the compensation of {step.name} reads {table}, from which the step deletes; let the step return the row"
        )
        yield Finding(source.path, line, "reads-what-is-deleted", text)
    for name in sorted(_paths(step.function, _REMOVING) & _paths(compensation, _OPENING)):
        text = f"the compensation of {step.name} reads the file {name}, which the step removes; let the step move it"
        yield Finding(source.path, line, "reads-what-is-deleted", text)


def _texts(body: Body) -> Iterator[str]:
    for node in ast.walk(body):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _tables_deleted(body: Body) -> set[str]:
    return {_plain(match) for text in _texts(body) for match in _DELETED.findall(text)}


def _tables_read(body: Body) -> set[str]:
    return {_plain(one or other) for text in _texts(body) for one, other in _READ.findall(text)}


def _plain(table: str) -> str:
    return table.replace('"', "").replace("`", "").lower()


def _paths(body: Body, verbs: frozenset[str]) -> set[str]:
    """The names of what such calls are given first, or are called on: `os.remove(path)`, `Path(ctx["path"]).open()`."""
    names = set()
    for call in calls_in(body):
        if last_name(call.func) not in verbs:
            continue
        subjects: list[ast.AST] = list(call.args[:1])
        if isinstance(call.func, ast.Attribute):
            subjects.append(call.func.value)
        names |= {name for subject in subjects for name in _names(subject)}
    return names - {"os", "shutil", "Path", "pathlib", "ctx"}


def _names(subject: ast.AST) -> Iterator[str]:
    for node in ast.walk(subject):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            yield node.value
