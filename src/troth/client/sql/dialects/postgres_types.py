"""PostgreSQL's values: as images hold them, as Java would have them in an undo log, and as lock keys spell them.

An image holds every value as **text**, in a spelling that does not depend on the session (`shown`), and gives it back
by a cast to the column's type (`mark`); so each type survives, also those that Java or we have never heard of. An undo
log holds the Java value that the JDBC driver would give, where there is one; and the text beside it, where Java's value
depends on the time zone of the JVM.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Final

from troth.client.sql.tables import Column
from troth.client.sql.undo import Field
from troth.client.sql.values import (
    BYTES,
    DOUBLE,
    LONG,
    Bean,
    JavaValue,
    JsonValue,
    Typed,
    ValueNotSupported,
    java_double_text,
)

CASELESS, SCALELESS, EXACT = "caseless", "scaleless", ""
"""How a key's values are folded (`Column.collation`): citext, numeric without a scale, all others."""

KEY_TYPES = frozenset(
    {"int2", "int4", "int8", "oid", "numeric", "float4", "float8", "text", "varchar", "bpchar", "name", "char"}
    | {"citext", "bool", "uuid", "date", "time", "timestamp", "timestamptz", "bytea", "bit", "varbit", "enum"}
    | {"inet", "cidr", "macaddr", "macaddr8", "money", "xid8", "pg_lsn"}
)
"""Types of which equal values have one text, once they are folded."""

_FLOAT: Final = "java.lang.Float"
_DECIMAL: Final = "java.math.BigDecimal"
_UUID: Final = "java.util.UUID"
_DATE: Final = "java.sql.Date"
_TIME: Final = "java.sql.Time"
_TIMESTAMP: Final = "java.sql.Timestamp"
_OBJECT: Final = "org.postgresql.util.PGobject"
_ARRAY: Final = "SerialArray"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d(?: \d\d:\d\d:\d\d(?:\.\d{1,6})?(?:[+-]\d\d(?::\d\d){0,2})?)?")
_NOT_NUMBERS = frozenset({"NaN", "Infinity", "-Infinity"})

_JDBC: Mapping[str, int] = MappingProxyType(
    {
        **dict.fromkeys(("int8", "oid"), -5),
        **dict.fromkeys(("bool", "bit"), -7),
        **dict.fromkeys(("char", "bpchar"), 1),
        **dict.fromkeys(("varchar", "text", "name", "enum"), 12),
        **dict.fromkeys(("time", "timetz"), 92),
        **dict.fromkeys(("timestamp", "timestamptz"), 93),
        **dict.fromkeys(("float8", "money"), 8),
        "bytea": -2,
        "date": 91,
        "float4": 7,
        "int2": 5,
        "int4": 4,
        "numeric": 2,
        "xml": 2009,
    }
)
_ARRAY_JDBC, _OTHER_JDBC, _STRUCT_JDBC, _DOMAIN_JDBC = 2003, 1111, 2002, 2001
_PLAIN = frozenset({"text", "varchar", "bpchar", "name", "char", "enum"})
_PG_OBJECTS = frozenset({"json", "jsonb", "inet", "cidr", "macaddr", "macaddr8", "varbit"})


def jdbc_type(base_type: str, kind: str, *, is_domain: bool) -> int:
    """The number of `java.sql.Types` that the JDBC driver gives; `kind` is pg_type.typtype of the base type."""
    if is_domain:
        return _DOMAIN_JDBC
    if base_type.startswith("_"):
        return _ARRAY_JDBC
    return _STRUCT_JDBC if kind == "c" else _JDBC.get(base_type, _OTHER_JDBC)


def quote(name: str) -> str:
    """`name` in double quotes; `%` doubled, since what AT makes is run with parameters."""
    return '"' + name.replace('"', '""').replace("%", "%%") + '"'


def shown(column: Column, qualifier: str = "") -> str:
    """The expression that shows the column as images hold it; `qualifier` names its table, with the dot."""
    name = qualifier + quote(column.name)
    match column.base_type:
        case "bpchar" | "inet":  # ::text drops trailing blanks, or adds a netmask
            return f"CASE WHEN {name} IS NOT NULL THEN concat({name}) END"
        case "bytea":  # whatever bytea_output says
            return f"('\\x' || encode({name}, 'hex'))"
        case "money":  # whatever lc_monetary says
            return f"{name}::numeric::text"
        case base if base.startswith("reg"):  # whatever search_path says
            return f"{name}::oid::text"
        case _:
            return f"{name}::text"


def mark(column: Column) -> str:
    """The placeholder for a value as `shown` gives it, cast to the column's type."""
    match column.base_type:
        case "money":
            return f"%s::numeric::{column.type_name}"
        case base if base.startswith("reg"):
            return f"%s::oid::{column.type_name}"
        case _:
            return f"%s::{column.type_name}"


# --- to an undo log ---


class Zone:
    """The time zone of the JVMs that share the undo log (None: that of this process), and what depends on it."""

    def __init__(self, zone: tzinfo | None = None) -> None:
        self._zone = zone

    def field(self, column: Column, key_type: str, value: object) -> Field:
        """A value of an image as a field of an undo log. Raises ValueNotSupported."""
        if value is None:
            return Field(column.name, key_type, column.jdbc_type, None)
        if not isinstance(value, str):
            raise ValueNotSupported(f"{column.name} was read as a {type(value).__name__}")
        java = self._to_java(column.base_type, value)
        inexact = column.base_type == "money" or (
            isinstance(java, Typed) and java.java_class in (_DATE, _TIME, _TIMESTAMP)
        )
        text = value if inexact else None
        return Field(column.name, key_type, column.jdbc_type, java, text)

    def _to_java(self, base_type: str, text: str) -> JavaValue:
        if base_type in _PLAIN:
            return text
        if base_type in ("date", "timestamp", "timestamptz"):
            return self._moment(base_type, text)
        if base_type in _PG_OBJECTS:
            return _object(base_type, text)
        if text in _NOT_NUMBERS:
            return Typed(_FLOAT if base_type == "float4" else DOUBLE, text)
        match base_type:
            case "int2" | "int4":
                return int(text)
            case "int8" | "oid":
                return Typed(LONG, int(text))
            case "numeric":
                return Typed(_DECIMAL, Decimal(text))
            case "float8" | "money":
                return float(text)
            case "bit":
                return text == "1" if len(text) == 1 else _object(base_type, text)
            case "float4":
                return Typed(_FLOAT, float(text))
            case "bool":
                return text == "true"
            case "uuid":
                return Typed(_UUID, text)
            case "bytea":
                return Typed(BYTES, base64.b64encode(bytes.fromhex(text[2:])).decode("ascii"))
            case "time" if text != "24:00:00":
                return Typed(_TIME, text[:8])
            case _:
                return text

    def _moment(self, base_type: str, text: str) -> JavaValue:
        """Java counts milliseconds from 1970, for a `date` or `timestamp` in the JVM's own time zone."""
        if not _MOMENT.fullmatch(text):
            return text  # infinity, BC, a year of five digits
        try:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                moment = moment.astimezone() if self._zone is None else moment.replace(tzinfo=self._zone)
        except (ValueError, OverflowError):  # at the edge of what Python's calendar holds
            return text
        if base_type == "date":
            return Typed(_DATE, _milliseconds(moment))
        milliseconds: JsonValue = _milliseconds(moment)
        if moment.microsecond % 1000:
            milliseconds = [milliseconds, moment.microsecond * 1000]
        return Typed(_TIMESTAMP, milliseconds)

    # --- from an undo log ---

    def text(self, column: Column, field: Field) -> str | None:
        """A field of an undo log, Java's or ours, as images hold it. Raises ValueNotSupported."""
        if field.text is not None:
            return field.text
        match field.value:
            case None | str():
                return field.value
            case bool() if column.base_type == "bit":
                return "1" if field.value else "0"
            case bool():
                return "true" if field.value else "false"
            case int():
                return str(field.value)
            case float():
                return java_double_text(field.value)
            case Typed(java_class, value):
                return self._typed(column, java_class, value)
            case Bean():
                return _bean(column, field.value)

    def _typed(self, column: Column, java_class: str, value: JsonValue) -> str:
        try:
            match java_class, value:
                case (_, (int() | Decimal())) if java_class in _NUMBERS and not isinstance(value, bool):
                    return _digits(value) if java_class != DOUBLE else java_double_text(float(value))
                case (_, str()) if java_class in (_UUID, _TIME) or value in _NOT_NUMBERS:
                    return value
                case (_, str()) if java_class == BYTES:
                    return "\\x" + base64.b64decode(value, validate=True).hex()
                case (("java.time.OffsetDateTime" | "java.time.LocalDateTime"), str()):
                    return value
                case (("java.sql.Date" | "java.sql.Timestamp" | "java.time.LocalDateTime"), _):
                    return self._from_moment(column, value)
                case _:
                    raise ValueNotSupported(f"{column.name}: a {java_class} in an undo log of PostgreSQL is not known")
        except (ValueError, OverflowError, InvalidOperation, binascii.Error) as error:
            raise ValueNotSupported(f"{column.name}: {java_class} {value!r}: {error}") from error

    def _from_moment(self, column: Column, value: JsonValue) -> str:
        match value:
            case [int(milliseconds), int(nanos)]:
                moment = _EPOCH + timedelta(seconds=milliseconds // 1000, microseconds=nanos // 1000)
            case int():
                moment = _EPOCH + timedelta(milliseconds=value)
            case _:
                raise ValueNotSupported(f"{column.name}: {value!r} is no point in time")
        if column.base_type == "timestamptz":
            return moment.isoformat(" ")
        wall = moment.astimezone(self._zone).replace(tzinfo=None)
        return wall.date().isoformat() if column.base_type == "date" else wall.isoformat(" ")


_NUMBERS = frozenset(
    {LONG, DOUBLE, _FLOAT, _DECIMAL, "java.lang.Integer", "java.lang.Short", "java.lang.Byte", "java.math.BigInteger"}
)


def _object(base_type: str, text: str) -> Bean:
    """As Jackson writes the driver's `PGobject`."""
    return Bean(_OBJECT, (("type", base_type), ("value", text), ("null", False)))


def _milliseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def _digits(value: int | Decimal) -> str:
    return str(value) if isinstance(value, int) else f"{value:f}"


def _bean(column: Column, bean: Bean) -> str | None:
    """A `PGobject` has the text of its value; a `SerialArray` the elements of an array of one dimension."""
    if bean.java_class.startswith("org.postgresql."):
        value = bean.get("value")
        if value is None or isinstance(value, str):
            return value
    if bean.java_class.endswith(_ARRAY):
        match bean.get("elements"):
            case [str(java_class), list(items)] if java_class.startswith("["):
                return _array(column, items)
            case list(items):
                return _array(column, items)
    raise ValueNotSupported(f"{column.name}: a {bean.java_class} in an undo log of PostgreSQL is not known")


def _array(column: Column, items: list[JsonValue]) -> str:
    return "{" + ",".join(_element(column, item) for item in items) + "}"


def _element(column: Column, item: JsonValue) -> str:
    match item:
        case None:
            return "NULL"
        case bool():
            return "true" if item else "false"
        case int() | Decimal() | float():
            return str(item)
        case [str(), (int() | Decimal()) as number]:
            return _digits(number)
        case str() | [str(), str()]:
            text = item if isinstance(item, str) else str(item[1])
            return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case _:
            raise ValueNotSupported(f"{column.name}: {item!r} in an array is not known")


# --- lock keys ---


def lock_part(column: Column, collation: str, value: object) -> str:
    """A key's value as Java's `String.valueOf` has it, folded: the database's equal keys have one text.

    A `timestamptz` is spelled in UTC: two processes in two time zones must not lock one row by two names.
    """
    text = str(value)
    match column.base_type:
        case "numeric" if text not in _NOT_NUMBERS:
            number = Decimal(text)
            return f"{number.normalize():f}" if collation == SCALELESS else str(number)
        case "float4" | "float8" if text not in _NOT_NUMBERS:
            return java_double_text(float(text) + 0.0)
        case "citext":
            return text.lower()
        case "timestamp" | "timestamptz" if _MOMENT.fullmatch(text):
            return _timestamp_text(text)
        case "bytea":
            return "x" + text[2:]
        case _:
            return text


def _timestamp_text(text: str) -> str:
    """As `java.sql.Timestamp.toString` has it: at least one digit behind the point, no zeros at the end."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    fraction = f"{moment.microsecond:06d}".rstrip("0") or "0"
    return f"{moment:%Y-%m-%d %H:%M:%S}.{fraction}"
