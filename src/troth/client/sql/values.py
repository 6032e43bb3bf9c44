"""Values: how Java types them in an undo log, and how a SQLite value becomes one and back, exactly.

Jackson's default typing writes what JSON has by itself bare (Integer, Double, Boolean, String, null) and the rest as
`[class, value]` (PROTOCOL §10). `Typed` keeps such a pair as it is, so that rows of any database survive decoding
and encoding; only `to_sql`/`from_sql` give it a meaning.
"""

from __future__ import annotations

import base64
import binascii
import math
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import TypeAlias

JsonValue: TypeAlias = "bool | int | float | Decimal | str | list[JsonValue] | dict[str, JsonValue] | None"
SqlValue: TypeAlias = int | float | str | bytes | None

LONG = "java.lang.Long"
DOUBLE = "java.lang.Double"
BYTES = "[B"
_INTEGER_MIN, _INTEGER_MAX = -(2**31), 2**31 - 1
_LONG_MIN, _LONG_MAX = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class Typed:
    """A value that Jackson writes with its Java class: `["java.lang.Long", 5]`."""

    java_class: str
    value: JsonValue


@dataclass(frozen=True, slots=True)
class Bean:
    """A value that Jackson writes as an object: `{"@class": "org.postgresql.util.PGobject", "type": "jsonb", …}`."""

    java_class: str
    properties: tuple[tuple[str, JsonValue], ...]

    def get(self, name: str) -> JsonValue:
        """The property `name`; None if there is none."""
        return dict(self.properties).get(name)


JavaValue: TypeAlias = bool | int | float | str | Typed | Bean | None


class ValueNotSupported(ValueError):
    """A value that this database can not hold, or whose Java type is not known here."""


class JdbcType(Enum):
    """The numbers of `java.sql.Types` that columns of SQLite get."""

    BOOLEAN = 16
    TINYINT = -6
    SMALLINT = 5
    INTEGER = 4
    BIGINT = -5
    FLOAT = 6
    REAL = 7
    DOUBLE = 8
    NUMERIC = 2
    DECIMAL = 3
    CHAR = 1
    VARCHAR = 12
    VARBINARY = -3
    DATE = 91
    TIME = 92
    TIMESTAMP = 93


def from_sql(value: object) -> JavaValue:
    """A SQLite value as Java would hold it: an int of 32 bits is an Integer, a longer one a Long, a blob `[B`.

    Infinity has no JSON number; it goes as `["java.lang.Double", "Infinity"]`, which Jackson reads.
    """
    match value:
        case None | str():
            return value
        case bool():
            return int(value)
        case int():
            return value if _INTEGER_MIN <= value <= _INTEGER_MAX else Typed(LONG, value)
        case float():
            return value if math.isfinite(value) else Typed(DOUBLE, java_double_text(value))
        case bytes():
            return Typed(BYTES, base64.b64encode(value).decode("ascii"))
        case _:
            raise ValueNotSupported(f"a {type(value).__name__} is not a value of SQLite")


def to_sql(value: JavaValue) -> SqlValue:
    """A value of an undo log as SQLite holds it; the reverse of `from_sql`.

    Raises:
        ValueNotSupported: a Java type that no SQLite column gives, or a number out of SQLite's range.
    """
    match value:
        case None | str() | float():
            return value
        case bool():
            return int(value)
        case int():
            return _as_integer(value)
        case Typed(java_class=java_class, value=inner):
            return _typed_to_sql(java_class, inner)
        case Bean(java_class=java_class):
            raise ValueNotSupported(f"a {java_class} in an undo log of SQLite is not known")


def _typed_to_sql(java_class: str, value: JsonValue) -> SqlValue:
    match java_class, value:
        case (("java.lang.Long" | "java.lang.Integer" | "java.lang.Short" | "java.lang.Byte"), int()):
            return _as_integer(value)
        case "[B", str():
            return _as_bytes(value)
        case (("java.lang.Double" | "java.lang.Float"), (int() | float() | Decimal())):
            return float(value)
        case "java.lang.Double", ("Infinity" | "-Infinity"):
            return math.inf if value == "Infinity" else -math.inf
        case _:
            raise ValueNotSupported(f"a {java_class} in an undo log of SQLite is not known")


def _as_integer(value: int) -> int:
    if not _LONG_MIN <= value <= _LONG_MAX:
        raise ValueNotSupported(f"{value} does not fit in 64 bits")
    return value


def _as_bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueNotSupported(f"bytes that are not base64: {error}") from error


def java_double_text(value: float) -> str:
    """`value` as `Double.toString` writes it: `0.001`, `100.0`, `1.0E7`, `1.5E-5`."""
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    if value == 0.0:
        return "-0.0" if math.copysign(1.0, value) < 0 else "0.0"
    sign, digit_tuple, exponent = Decimal(repr(value)).normalize().as_tuple()
    if not isinstance(exponent, int):
        raise ValueNotSupported("not a number is no value of SQLite")
    digits = "".join(map(str, digit_tuple))
    point = len(digits) + exponent
    minus = "-" if sign else ""
    if -3 < point <= 7:
        return minus + _plain_text(digits, point)
    return f"{minus}{digits[0]}.{digits[1:] or '0'}E{point - 1}"


def _plain_text(digits: str, point: int) -> str:
    if point <= 0:
        return f"0.{'0' * -point}{digits}"
    whole = digits[:point].ljust(point, "0")
    return f"{whole}.{digits[point:] or '0'}"
