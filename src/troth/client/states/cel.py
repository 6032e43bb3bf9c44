"""Expressions in the Common Expression Language, by cel-python: `$cel{stock.count >= wanted}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from troth.client.states.spel import ExpressionError

try:
    import celpy
    from celpy import celtypes
    from celpy.adapter import json_to_cel
    from celpy.celparser import CELParseError
    from celpy.evaluation import CELEvalError
except ImportError:
    celpy = None  # type: ignore[assignment,unused-ignore]


class CelExpression:
    """One compiled expression. Its variables are those of the machine by name, and `root`: all of them, or a result."""

    def __init__(self, source: str) -> None:
        """Raises ExpressionError, also where the library is missing."""
        if celpy is None:
            raise ExpressionError(f"$cel{{{source}}} needs a library: pip install 'troth[cel]'")
        self.source = source
        environment = celpy.Environment()
        try:
            self._program = environment.program(environment.compile(source))
        except CELParseError as error:
            raise ExpressionError(f"$cel{{{source}}} cannot be read: {error}") from None

    def evaluate(self, root: Any) -> Any:
        """Its value over `root`. Raises ExpressionError."""
        names = root if isinstance(root, Mapping) else {}
        given = {name: json_to_cel(value) for name, value in names.items() if name.isidentifier()}
        try:
            return _plain(self._program.evaluate({**given, "root": json_to_cel(root)}))
        except CELEvalError as error:
            reason = str(error.args[0] if error.args else error).partition(" (in activation")[0]
            raise ExpressionError(f"$cel{{{self.source}}}: {reason}") from None


def _plain(value: Any) -> Any:
    """What JSON knows, of what CEL gives."""
    if value is None or isinstance(value, celtypes.BoolType):
        return None if value is None else bool(value)
    if isinstance(value, celtypes.IntType | celtypes.UintType):
        return int(value)
    if isinstance(value, celtypes.DoubleType):
        return float(value)
    if isinstance(value, celtypes.StringType):
        return str(value)
    if isinstance(value, celtypes.ListType):
        return [_plain(item) for item in value]
    if isinstance(value, celtypes.MapType):
        return {str(key): _plain(item) for key, item in value.items()}
    raise ExpressionError(f"a CEL value of the type {type(value).__name__} has no form in JSON: convert it to a string")
