"""The part of Spring's expression language that state machines really use, evaluated over plain values.

Values are what JSON knows (dict, list, str, int, float, bool, None): there are no objects behind an expression, so
nothing can be called but the few methods of `_METHODS`. What is not understood is refused by name when it is parsed.

    >>> Expression("[a].list[0] + 1").evaluate({"a": {"list": [41]}})
    42
    >>> Expression("#root != null && #root.size() > 0").evaluate([1])
    True
    >>> Expression("[loopResult].?[#this[x] == null].size()").evaluate({"loopResult": [{"x": 1}, {}]})
    1
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

Value = Any
"""What JSON knows."""
_Node = Callable[[Value, Value], Value]
"""An evaluated piece: (root, this) → value."""

_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)[lLfFdD]?
      |(?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
      |(?P<name>[#$]?[A-Za-z_]\w*)
      |(?P<sign>\?\.|\.\?\[|\.!\[|\.\^\[|\.\$\[|\?:|\|\||&&|==|!=|<=|>=|[-+*/%<>!?:.,()\[\]{}]))""",
    re.VERBOSE,
)
_WORDS: Final = MappingProxyType(
    {
        "or": "||", "and": "&&", "not": "!", "eq": "==", "ne": "!=",
        "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "div": "/", "mod": "%",
    }
)  # fmt: skip
_BINDING: Final = MappingProxyType(
    {"||": 2, "&&": 3, "==": 4, "!=": 4, "<": 5, "<=": 5, ">": 5, ">=": 5, "+": 6, "-": 6, "*": 7, "/": 7, "%": 7}
)
_LITERALS: Final = MappingProxyType({"true": True, "false": False, "null": None})
_SELECTIONS: Final = frozenset({".?[", ".![", ".^[", ".$["})


class ExpressionError(ValueError):
    """An expression cannot be read, or has no value here."""


class Expression:
    """One parsed expression."""

    def __init__(self, source: str) -> None:
        """Raises ExpressionError for what this subset does not have."""
        self.source = source
        parser = _Parser(source)
        self._node = parser.ternary()
        parser.expect_end()

    def evaluate(self, root: Value) -> Value:
        """Its value over `root`. Raises ExpressionError."""
        try:
            return self._node(root, root)
        except ExpressionError as error:
            raise ExpressionError(f"{self.source!r}: {error}") from None
        except (TypeError, ZeroDivisionError, OverflowError, RecursionError) as error:
            raise ExpressionError(f"{self.source!r}: {error}") from error


class _Parser:
    def __init__(self, source: str) -> None:
        self._source = source
        self._tokens = self._split()
        self._at = 0

    def _split(self) -> list[tuple[str, str]]:
        tokens, at = [], 0
        source = self._source.rstrip()
        while at < len(source):
            match = _TOKEN.match(source, at)
            if match is None:
                raise ExpressionError(f"{self._source!r}: {source[at:].strip()[:12]!r} is not understood")
            kind = match.lastgroup or ""
            text = match[kind]
            tokens.append(("sign", _WORDS[text]) if kind == "name" and text in _WORDS else (kind, text))
            at = match.end()
        return tokens

    # --- tokens ---

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _sign(self, *signs: str) -> str | None:
        """Take one of `signs` if it comes next."""
        if self._at < len(self._tokens) and self._tokens[self._at][0] == "sign" and self._peek() in signs:
            self._at += 1
            return self._tokens[self._at - 1][1]
        return None

    def _expect(self, sign: str) -> None:
        if self._sign(sign) is None:
            raise ExpressionError(f"{self._source!r}: {sign!r} is missing before {self._peek() or 'the end'!r}")

    def expect_end(self) -> None:
        if self._at < len(self._tokens):
            raise ExpressionError(f"{self._source!r}: {self._peek()!r} is not understood there")

    # --- grammar ---

    def ternary(self) -> _Node:
        condition = self._binary(0)
        if self._sign("?:"):
            other = self.ternary()
            return lambda root, this: _elvis(condition(root, this), other, root, this)
        if not self._sign("?"):
            return condition
        yes = self.ternary()
        self._expect(":")
        no = self.ternary()
        return lambda root, this: (yes if _truth(condition(root, this)) else no)(root, this)

    def _binary(self, weakest: int) -> _Node:
        left = self._unary()
        while self._at < len(self._tokens) and self._tokens[self._at][0] == "sign":
            sign = self._peek()
            strength = _BINDING.get(sign, 0)
            if strength <= weakest:
                break
            self._at += 1
            left = _join(sign, left, self._binary(strength))
        return left

    def _unary(self) -> _Node:
        if self._sign("!"):
            negated = self._unary()
            return lambda root, this: not _truth(negated(root, this))
        if self._sign("-"):
            number = self._unary()
            return lambda root, this: -_number(number(root, this))
        return self._postfix(self._primary())

    def _postfix(self, target: _Node) -> _Node:
        while True:
            if self._sign("["):
                target = _indexed(target, self._index())
            elif sign := self._sign(*_SELECTIONS):
                inner = self.ternary()
                self._expect("]")
                target = _selected(sign, target, inner)
            elif sign := self._sign(".", "?."):
                target = self._member(target, safe=sign == "?.")
            else:
                return target

    def _member(self, target: _Node, *, safe: bool) -> _Node:
        kind, name = self._tokens[self._at] if self._at < len(self._tokens) else ("", "")
        if kind != "name":
            raise ExpressionError(f"{self._source!r}: a name is missing behind the dot")
        self._at += 1
        if not self._sign("("):
            return lambda root, this: _property(target(root, this), name, safe=safe)
        method = _METHODS.get(name)
        if method is None:
            raise ExpressionError(f"{self._source!r}: the method {name}() is not one of {', '.join(sorted(_METHODS))}")
        arguments = self._list(")")
        return lambda root, this: _called(method, name, target(root, this), [one(root, this) for one in arguments])

    def _primary(self) -> _Node:
        if self._at >= len(self._tokens):
            raise ExpressionError(f"{self._source!r} ends too early")
        kind, text = self._tokens[self._at]
        self._at += 1
        if kind == "number":
            number = float(text) if any(sign in text for sign in ".eE") else int(text)
            return lambda root, this: number
        if kind == "text":
            value = text[1:-1].replace(text[0] * 2, text[0])
            return lambda root, this: value
        if kind == "name":
            return self._named(text)
        if text == "(":
            inner = self.ternary()
            self._expect(")")
            return inner
        if text == "[":
            return _indexed(lambda root, this: this, self._index())
        if text == "{":
            items = self._list("}")
            return lambda root, this: [item(root, this) for item in items]
        raise ExpressionError(f"{self._source!r}: {text!r} is not understood there")

    def _named(self, name: str) -> _Node:
        if name in _LITERALS:
            literal = _LITERALS[name]
            return lambda root, this: literal
        if name == "#root":
            return lambda root, this: root
        if name == "#this":
            return lambda root, this: this
        if name[0] in "#$" or name in ("T", "new") or self._peek() == "(":
            raise ExpressionError(f"{self._source!r}: {name!r} is not in the subset that runs here")
        return lambda root, this: _property(this, name, safe=False)

    def _index(self) -> _Node:
        """What stands between brackets: a bare name is a key, as in Spring."""
        kind, text = self._tokens[self._at] if self._at < len(self._tokens) else ("", "")
        bare = kind == "name" and text[0] not in "#$" and text not in _LITERALS
        if bare and self._at + 1 < len(self._tokens) and self._tokens[self._at + 1][1] == "]":
            self._at += 2
            return lambda root, this: text
        inner = self.ternary()
        self._expect("]")
        return inner

    def _list(self, end: str) -> list[_Node]:
        items: list[_Node] = []
        while not self._sign(end):
            if items:
                self._expect(",")
            items.append(self.ternary())
        return items


# --- what the pieces do ----------------------------------------------------------------------------------------------


def _join(sign: str, left: _Node, right: _Node) -> _Node:
    if sign == "||":
        return lambda root, this: _truth(left(root, this)) or _truth(right(root, this))
    if sign == "&&":
        return lambda root, this: _truth(left(root, this)) and _truth(right(root, this))
    operation = _OPERATIONS[sign]
    return lambda root, this: operation(left(root, this), right(root, this))


def _elvis(value: Value, other: _Node, root: Value, this: Value) -> Value:
    return other(root, this) if value is None or value == "" else value


def _truth(value: Value) -> bool:
    if not isinstance(value, bool):
        raise ExpressionError(f"{value!r} is neither true nor false")
    return value


def _number(value: Value) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ExpressionError(f"{value!r} is not a number")
    return value


def _equal(left: Value, right: Value) -> bool:
    if isinstance(left, bool) is not isinstance(right, bool):
        return False
    return bool(left == right)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Value, Value], bool]:
    def decide(left: Value, right: Value) -> bool:
        if isinstance(left, str) and isinstance(right, str):
            return compare(left, right)
        return compare(_number(left), _number(right))

    return decide


def _add(left: Value, right: Value) -> Value:
    if isinstance(left, str) or isinstance(right, str):
        return _text(left) + _text(right)
    return _number(left) + _number(right)


def _text(value: Value) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _divide(left: Value, right: Value) -> int | float:
    """As Java: whole numbers give a whole number, towards zero."""
    one, two = _number(left), _number(right)
    if isinstance(one, int) and isinstance(two, int):
        whole = abs(one) // abs(two)
        return whole if (one < 0) == (two < 0) else -whole
    return one / two


def _remainder(left: Value, right: Value) -> int | float:
    return _number(left) - _number(right) * _divide(left, right) if isinstance(left, int) else _number(left) % right


_OPERATIONS: Final[Mapping[str, Callable[[Value, Value], Value]]] = MappingProxyType(
    {
        "==": _equal,
        "!=": lambda left, right: not _equal(left, right),
        "<": _ordered(lambda left, right: left < right),
        "<=": _ordered(lambda left, right: left <= right),
        ">": _ordered(lambda left, right: left > right),
        ">=": _ordered(lambda left, right: left >= right),
        "+": _add,
        "-": lambda left, right: _number(left) - _number(right),
        "*": lambda left, right: _number(left) * _number(right),
        "/": _divide,
        "%": _remainder,
    }
)


def _property(target: Value, name: str, *, safe: bool) -> Value:
    if target is None and safe:
        return None
    if isinstance(target, Mapping):
        return target.get(name)
    raise ExpressionError(f"{_kind(target)} has no {name!r}")


def _indexed(target: _Node, index: _Node) -> _Node:
    return lambda root, this: _item(target(root, this), index(root, this))


def _item(target: Value, index: Value) -> Value:
    if isinstance(target, Mapping):
        return target.get(index)
    if isinstance(target, list | str) and isinstance(index, int) and not isinstance(index, bool):
        if not 0 <= index < len(target):
            raise ExpressionError(f"index {index} is outside of {len(target)} items")
        return target[index]
    raise ExpressionError(f"{_kind(target)} has no item {index!r}")


def _selected(sign: str, target: _Node, inner: _Node) -> _Node:
    def evaluate(root: Value, this: Value) -> Value:
        items = target(root, this)
        if not isinstance(items, list):
            raise ExpressionError(f"{_kind(items)} is not a list to choose from")
        if sign == ".![":
            return [inner(root, item) for item in items]
        chosen = [item for item in items if _truth(inner(root, item))]
        if sign == ".?[":
            return chosen
        return (chosen[0] if sign == ".^[" else chosen[-1]) if chosen else None

    return evaluate


def _called(method: Callable[..., Value], name: str, target: Value, arguments: list[Value]) -> Value:
    if target is None:
        raise ExpressionError(f"null has no method {name}()")
    try:
        return method(target, *arguments)
    except (AttributeError, TypeError) as error:
        raise ExpressionError(f"{name}() does not fit {_kind(target)}: {error}") from None


def _kind(value: Value) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


_METHODS: Final[Mapping[str, Callable[..., Value]]] = MappingProxyType(
    {
        "size": lambda value: len(value),
        "length": lambda value: len(value),
        "isEmpty": lambda value: not len(value),
        "contains": lambda value, item: item in value,
        "containsKey": lambda value, key: key in value,
        "get": _item,
        "equals": _equal,
        "startsWith": lambda value, start: value.startswith(start),
        "endsWith": lambda value, end: value.endswith(end),
        "toString": _text,
        "toLowerCase": lambda value: value.lower(),
        "toUpperCase": lambda value: value.upper(),
        "trim": lambda value: value.strip(),
    }
)
