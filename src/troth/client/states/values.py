"""Values in a definition that are worked out while it runs: `$.[a]`, `$Sequence…`, `$Exception{…}`, `$cel{…}`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from troth.client.states.cel import CelExpression
from troth.client.states.spel import Expression, ExpressionError

Value: TypeAlias = Any
"""What JSON knows."""

ANY_EXCEPTION: Final = frozenset({"java.lang.Throwable", "java.lang.Exception", "Exception", "BaseException"})
_TYPED: Final = re.compile(r"\$(?P<kind>[A-Za-z]+)\{(?P<content>.*)\}", re.DOTALL)
_SEQUENCE: Final = re.compile(r"\$Sequence\.(?P<entity>\w+)(?:\|(?P<rule>.*))?")


@dataclass(frozen=True, slots=True)
class Raised:
    """What a task raised: the names of its class and of those that it inherits from, with and without their modules."""

    names: tuple[str, ...]
    message: str

    def is_one_of(self, wanted: tuple[str, ...]) -> bool:
        """True if one of `wanted` names it; Java's Throwable and Exception mean any."""
        known = ANY_EXCEPTION.union(self.names)
        return any(name in known or name.rpartition(".")[2] in self.names for name in wanted)


class Numbers(Protocol):
    """Gives new names, the same ones when a run is repeated."""

    def __call__(self, entity: str) -> str:
        """The next name for `entity`."""
        ...


class Evaluable(Protocol):
    """An expression in either language."""

    def evaluate(self, root: Value) -> Value:
        """Its value over `root`. Raises ExpressionError."""
        ...


class Template:
    """A JSON value of which the texts that begin with `$` are expressions."""

    def __init__(self, source: Value) -> None:
        """Raises ExpressionError."""
        self.source = source
        self._parsed = _parse(source)

    def fill(self, root: Value, numbers: Numbers) -> Value:
        """The value over `root`. Raises ExpressionError."""
        return _fill(self._parsed, root, numbers)


class Test:
    """Something that holds or does not: of a result, of the variables, or of what was raised."""

    __test__ = False  # pytest would take it for one of its own

    def __init__(self, source: str) -> None:
        """Raises ExpressionError."""
        self.source = source
        typed = _TYPED.fullmatch(source)
        self._exception = typed["content"].strip() if typed and typed["kind"].lower() == "exception" else None
        self._expression = None if self._exception is not None else _expression(source, bare=True)

    @property
    def is_of_exceptions(self) -> bool:
        """True for `$Exception{…}`."""
        return self._exception is not None

    def holds(self, root: Value) -> bool:
        """Whether it holds of `root`. Raises ExpressionError if that is neither true nor false."""
        if self._expression is None:
            return False
        found = self._expression.evaluate(root)
        if not isinstance(found, bool):
            raise ExpressionError(f"{self.source!r} gives {found!r}, which is neither true nor false")
        return found

    def matches(self, raised: Raised) -> bool:
        """Whether it names this exception."""
        return self._exception is not None and raised.is_one_of((self._exception,))


@dataclass(frozen=True, slots=True)
class _Sequence:
    entity: str


def _expression(source: str, *, bare: bool) -> Evaluable:
    typed = _TYPED.fullmatch(source)
    if typed is not None:
        kind = typed["kind"].lower()
        if kind == "cel":
            return CelExpression(typed["content"])
        if kind in ("spel", "el"):
            return Expression(typed["content"])
        raise ExpressionError(f"{source!r}: expressions of the type {typed['kind']!r} are not known (cel, Exception)")
    if source.startswith("$."):
        return Expression(source[2:])
    if bare:
        return Expression(source)
    raise ExpressionError(f"{source!r}: behind $ a dot, Sequence.NAME or TYPE{{…}} is expected")


def _parse(source: Value) -> Value:
    if isinstance(source, str) and source.startswith("$"):
        sequence = _SEQUENCE.fullmatch(source)
        return _Sequence(sequence["entity"]) if sequence else _expression(source, bare=False)
    if isinstance(source, Mapping):
        return {key: _parse(value) for key, value in source.items()}
    if isinstance(source, list):
        return [_parse(value) for value in source]
    return source


def _fill(parsed: Value, root: Value, numbers: Numbers) -> Value:
    if isinstance(parsed, _Sequence):
        return numbers(parsed.entity)
    if isinstance(parsed, dict):
        return {key: _fill(value, root, numbers) for key, value in parsed.items()}
    if isinstance(parsed, list):
        return [_fill(value, root, numbers) for value in parsed]
    if isinstance(parsed, Expression | CelExpression):
        return parsed.evaluate(root)
    return parsed
