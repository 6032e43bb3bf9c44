"""MySQL's values: how images hold them, how Java types them in an undo log (PROTOCOL §10), and back, exactly.

An image holds an int, a Decimal, a float, a str or bytes, by the column's type. Dates and times are texts as the server
prints them, since Python has no `0000-00-00` and no `-838:59:59`; a `timestamp` is one in UTC, whatever the session's
time zone. Where Java's form depends on the time zone of the JVM, or does not hold all, the field has the text too.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum, auto
from types import MappingProxyType

from troth.client.sql.tables import Column
from troth.client.sql.undo import Field
from troth.client.sql.values import BYTES, LONG, JavaValue, JsonValue, Typed, ValueNotSupported

Value = int | float | Decimal | str | bytes | None

_FLOAT = "java.lang.Float"
_BIG_DECIMAL = "java.math.BigDecimal"
_BIG_INTEGER = "java.math.BigInteger"
_DATE = "java.sql.Date"
_TIME = "java.sql.Time"
_TIMESTAMP = "java.sql.Timestamp"
_LOCAL_DATE_TIME = "java.time.LocalDateTime"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ZERO_TIMESTAMP = "0000-00-00 00:00:00"
QUALIFIER = "\x00"
"""Where the table stands in the expression of a hash: no name holds a NUL."""
_JAVA_TIME = re.compile(r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.0+)?")


class Jdbc(IntEnum):
    """The numbers of `java.sql.Types` that MySQL's drivers give to columns."""

    BIT = -7
    TINYINT = -6
    BIGINT = -5
    LONGVARBINARY = -4
    VARBINARY = -3
    BINARY = -2
    LONGVARCHAR = -1
    CHAR = 1
    DECIMAL = 3
    INTEGER = 4
    SMALLINT = 5
    REAL = 7
    DOUBLE = 8
    VARCHAR = 12
    DATE = 91
    TIME = 92
    TIMESTAMP = 93
    OTHER = 1111
    """MySQL's driver knows no type of MariaDB's own."""


class Family(Enum):
    """How values of a type are held and compared."""

    INTEGER = auto()
    BOOLEAN = auto()
    BIT = auto()
    DECIMAL = auto()
    FLOAT = auto()
    DOUBLE = auto()
    TEXT = auto()
    BINARY = auto()
    DATE = auto()
    TIME = auto()
    DATETIME = auto()
    TIMESTAMP = auto()
    YEAR = auto()
    HASH = auto()
    """No column of the table: the sort key of one, computed for a lock (`mysql_catalogue`)."""


_TYPES: Mapping[str, tuple[Family, Jdbc]] = MappingProxyType(
    {
        "tinyint": (Family.INTEGER, Jdbc.TINYINT),
        "smallint": (Family.INTEGER, Jdbc.SMALLINT),
        "mediumint": (Family.INTEGER, Jdbc.INTEGER),
        "int": (Family.INTEGER, Jdbc.INTEGER),
        "bigint": (Family.INTEGER, Jdbc.BIGINT),
        "bit": (Family.BIT, Jdbc.BIT),
        "decimal": (Family.DECIMAL, Jdbc.DECIMAL),
        "float": (Family.FLOAT, Jdbc.REAL),
        "double": (Family.DOUBLE, Jdbc.DOUBLE),
        "char": (Family.TEXT, Jdbc.CHAR),
        "varchar": (Family.TEXT, Jdbc.VARCHAR),
        "tinytext": (Family.TEXT, Jdbc.VARCHAR),
        **dict.fromkeys(("text", "mediumtext", "longtext", "json"), (Family.TEXT, Jdbc.LONGVARCHAR)),
        **dict.fromkeys(("enum", "set"), (Family.TEXT, Jdbc.CHAR)),
        **dict.fromkeys(("uuid", "inet4", "inet6"), (Family.TEXT, Jdbc.OTHER)),
        "binary": (Family.BINARY, Jdbc.BINARY),
        **dict.fromkeys(("varbinary", "tinyblob"), (Family.BINARY, Jdbc.VARBINARY)),
        **dict.fromkeys(("blob", "mediumblob", "longblob"), (Family.BINARY, Jdbc.LONGVARBINARY)),
        **dict.fromkeys(("geometry", "point", "linestring", "polygon"), (Family.BINARY, Jdbc.BINARY)),
        **dict.fromkeys(("multipoint", "multilinestring", "multipolygon"), (Family.BINARY, Jdbc.BINARY)),
        **dict.fromkeys(("geometrycollection", "geomcollection"), (Family.BINARY, Jdbc.BINARY)),
        "date": (Family.DATE, Jdbc.DATE),
        "time": (Family.TIME, Jdbc.TIME),
        "datetime": (Family.DATETIME, Jdbc.TIMESTAMP),
        "timestamp": (Family.TIMESTAMP, Jdbc.TIMESTAMP),
        "year": (Family.YEAR, Jdbc.DATE),
        "hash": (Family.HASH, Jdbc.CHAR),
    }
)
"""By DATA_TYPE of the catalogue."""


def is_known(base_type: str) -> bool:
    """Whether values of the type can be kept in an undo log."""
    return base_type in _TYPES


def jdbc_type(base_type: str, type_name: str) -> int:
    """The number of `java.sql.Types` for DATA_TYPE and COLUMN_TYPE of the catalogue."""
    return Jdbc.BIT if _is_boolean(base_type, type_name) else _TYPES[base_type][1]


def family(column: Column) -> Family:
    """How values of `column` are held."""
    if _is_boolean(column.base_type, column.type_name):
        return Family.BOOLEAN
    return _TYPES[column.base_type][0]


def _is_boolean(base_type: str, type_name: str) -> bool:
    # Java's drivers take a tinyint(1) for a boolean.
    return base_type == "tinyint" and type_name.startswith("tinyint(1)") and "unsigned" not in type_name


def _is_unsigned(column: Column) -> bool:
    return "unsigned" in column.type_name


def _width(column: Column) -> int:
    """The number in the parentheses of the declared type: bits of a `bit`, digits of a second's fraction."""
    digits = re.search(r"\((\d+)", column.type_name)
    return int(digits[1]) if digits else 0


# --- SQL ---


def quote(name: str) -> str:
    """`name` in backticks; `%` doubled, since what AT makes is run with parameters."""
    return "`" + name.replace("`", "``").replace("%", "%%") + "`"


def shown(column: Column, qualifier: str = "") -> str:
    """The expression that shows the value of `column` as images hold it; `qualifier` names its table, with the dot."""
    reference = qualifier + quote(column.name)
    match family(column):
        case Family.FLOAT:
            return f"{reference} * 1e0"  # a float prints six digits; a double prints all
        case Family.BIT:
            return f"{reference} + 0"
        case Family.TIMESTAMP:
            return f"UNIX_TIMESTAMP({reference})"
        case Family.HASH:
            return column.type_name.replace(QUALIFIER, qualifier)
        case _:
            return reference


def key_mark(column: Column) -> str:
    """The placeholder for `key_parameter`, in a session of the user's."""
    return "FROM_UNIXTIME(%s)" if family(column) is Family.TIMESTAMP else "%s"


def key_parameter(column: Column, value: object) -> object:
    """A value of an image as the parameter that finds it; a timestamp whatever the session's time zone."""
    if family(column) is not Family.TIMESTAMP:
        return value
    moment = _parsed(str(value))
    if moment is None:
        raise ValueNotSupported(f"{column.name} is part of the primary key and has the value {value}")
    return Decimal((moment.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)) / 1_000_000


def from_driver(column: Column, value: object) -> Value:
    """What the server sent for `shown(column)`, as images hold it."""
    match value:
        case None | int() | Decimal() | float() | str() | bytes() if family(column) is not Family.TIMESTAMP:
            return value
        case None:
            return None
        case int() | Decimal():
            return _utc_text(Decimal(value), _width(column))
        case _:
            raise ValueNotSupported(f"{column.name} has the value {value!r}, which no {column.type_name} has")


def _utc_text(seconds: Decimal, digits: int) -> str:
    if not seconds:
        return _with_fraction(_ZERO_TIMESTAMP, 0, digits)
    micros = int(seconds * 1_000_000)
    return _datetime_text(_EPOCH.replace(tzinfo=None) + timedelta(microseconds=micros), digits)


def _datetime_text(moment: datetime, digits: int) -> str:
    return _with_fraction(f"{moment:%H:%M:%S}", moment.microsecond, digits, f"{moment.date().isoformat()} ")


def _with_fraction(text: str, microsecond: int, digits: int, before: str = "") -> str:
    fraction = f".{microsecond:06d}"[: digits + 1] if digits else ""
    return before + text + fraction


# --- to an undo log ---


class Zone:
    """The time zone of the JVMs that share the undo log (None: that of this process), and what depends on it."""

    def __init__(self, zone: tzinfo | None = None) -> None:
        self._zone = zone

    def field(self, column: Column, key_type: str, value: object) -> Field:
        """A value of an image as a field of an undo log. Raises ValueNotSupported."""
        if value is None:
            return Field(column.name, key_type, column.jdbc_type, None)
        java, text = self._to_java(column, value)
        return Field(column.name, key_type, column.jdbc_type, java, text)

    def value(self, column: Column, field: Field) -> Value:
        """A field of an undo log, of Java's or ours, as images hold it. Raises ValueNotSupported."""
        if field.text is not None:
            return int(field.text) if family(column) is Family.YEAR else field.text
        if field.value is None:
            return None
        try:
            return _READERS[family(column)](self, column, field.value)
        except (ValueError, ArithmeticError, binascii.Error) as error:
            raise ValueNotSupported(f"{column.name} has {field.value!r}: {error}") from error

    def _to_java(self, column: Column, value: object) -> tuple[JavaValue, str | None]:
        match family(column), value:
            case Family.INTEGER, int():
                return _java_integer(column, value), None
            case Family.BOOLEAN, int():
                return (bool(value) if value in (0, 1) else value), None
            case Family.BIT, int():
                return _java_bits(column, value), None
            case Family.DECIMAL, Decimal():
                return Typed(_BIG_DECIMAL, value), None
            case Family.FLOAT, float():
                return Typed(_FLOAT, _shortest_float(value)), None
            case Family.DOUBLE, float():
                return value, None
            case Family.TEXT, str():
                return value, None
            case ((Family.BINARY | Family.TEXT), bytes()):
                return Typed(BYTES, base64.b64encode(value).decode("ascii")), None
            case ((Family.DATE | Family.TIME | Family.DATETIME | Family.TIMESTAMP), str()):
                return self._java_moment(column, value)
            case Family.YEAR, int():
                return self._java_date(f"{value:04d}-01-01"), str(value)
            case _:
                raise ValueNotSupported(f"{column.name} has the value {value!r}, which no {column.type_name} has")

    def _java_moment(self, column: Column, text: str) -> tuple[JavaValue, str | None]:
        match family(column):
            case Family.DATE:
                return self._java_date(text), text
            case Family.TIME if _JAVA_TIME.fullmatch(text):
                return Typed(_TIME, text[:8]), None
            case Family.TIME:
                return None, text
            case Family.DATETIME:
                return self._instant(_LOCAL_DATE_TIME, text), text
            case _:
                moment = _parsed(text)
                return (None if moment is None else _java_instant(_TIMESTAMP, moment.replace(tzinfo=UTC))), text

    def _java_date(self, day: str) -> JavaValue:
        return self._instant(_DATE, f"{day} 00:00:00")

    def _instant(self, java_class: str, text: str) -> JavaValue:
        """Java's value for a wall clock; None where no calendar has it."""
        local = _parsed(text)
        if local is None:
            return None
        try:
            moment = local.astimezone() if self._zone is None else local.replace(tzinfo=self._zone)
            return _java_instant(java_class, moment)
        except (OverflowError, ValueError):  # at both ends of the calendar
            return None

    def local(self, value: JavaValue, zone: tzinfo | None = None) -> datetime:
        """The wall clock at Java's `value` (a Date, Timestamp or LocalDateTime) in `zone`, else in that of the JVMs."""
        match value:
            case Typed(java_class, [int(ms), int(nanos)]) if java_class in (_TIMESTAMP, _LOCAL_DATE_TIME):
                moment = _EPOCH + timedelta(seconds=ms // 1000, microseconds=nanos // 1000)
            case Typed(java_class, int(ms)) if java_class in (_DATE, _TIMESTAMP, _LOCAL_DATE_TIME):
                moment = _EPOCH + timedelta(milliseconds=ms)
            case _:
                raise ValueNotSupported(f"{value!r} is no date of Java's")
        return moment.astimezone(zone or self._zone).replace(tzinfo=None)


def _parsed(text: str) -> datetime | None:
    """None for what the server allows and no calendar has: `0000-00-00`, `2024-02-30`."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _milliseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def _java_instant(java_class: str, moment: datetime) -> Typed:
    """A bare number, or `[ms, nanos]` where there is more than milliseconds, as Seata's serializers write."""
    milliseconds = _milliseconds(moment)
    if moment.microsecond % 1000 == 0:
        return Typed(java_class, milliseconds)
    return Typed(java_class, [milliseconds, moment.microsecond * 1000])


def _java_integer(column: Column, value: int) -> JavaValue:
    if column.base_type == "bigint":
        return Typed(_BIG_INTEGER if _is_unsigned(column) else LONG, value)
    return Typed(LONG, value) if column.base_type == "int" and _is_unsigned(column) else value


def _java_bits(column: Column, value: int) -> JavaValue:
    width = _width(column)
    if width <= 1:
        return bool(value)
    return Typed(BYTES, base64.b64encode(value.to_bytes((width + 7) // 8, "big")).decode("ascii"))


def _single(value: float) -> float:
    """The nearest number that a `float` column holds."""
    single: float = struct.unpack("f", struct.pack("f", value))[0]
    return single


def _shortest_float(value: float) -> float:
    """The number with the fewest digits that is `value` as a `float`, as Java's Float prints it."""
    return next((short for digits in range(1, 9) if _single(short := float(f"{value:.{digits}g}")) == value), value)


# --- from an undo log ---


def _number(value: JavaValue) -> int | float | Decimal:
    inner: JavaValue | JsonValue = value.value if isinstance(value, Typed) else value
    if isinstance(inner, int | float | Decimal):
        return inner
    raise ValueNotSupported(f"{value!r} is no number")


def _read_integer(_zone: Zone, _column: Column, value: JavaValue) -> Value:
    return int(_number(value))


def _read_bits(_zone: Zone, _column: Column, value: JavaValue) -> Value:
    if isinstance(value, Typed) and value.java_class == BYTES:
        return int.from_bytes(_bytes(value), "big")
    return int(_number(value))


def _read_decimal(_zone: Zone, _column: Column, value: JavaValue) -> Value:
    number = _number(value)
    return number if isinstance(number, Decimal) else Decimal(str(number))


def _read_float(_zone: Zone, _column: Column, value: JavaValue) -> Value:
    return _single(float(_number(value)))


def _read_double(_zone: Zone, _column: Column, value: JavaValue) -> Value:
    return float(_number(value))


def _read_text(_zone: Zone, _column: Column, value: JavaValue) -> Value:
    if isinstance(value, Typed) and value.java_class == BYTES:
        return _bytes(value)
    if isinstance(value, str):
        return value
    raise ValueNotSupported(f"{value!r} is no text")


def _read_binary(_zone: Zone, _column: Column, value: JavaValue) -> Value:
    if isinstance(value, Typed) and value.java_class == BYTES:
        return _bytes(value)
    if isinstance(value, str):
        return value.encode()
    raise ValueNotSupported(f"{value!r} is no bytes")


def _bytes(value: Typed) -> bytes:
    if not isinstance(value.value, str):
        raise ValueNotSupported(f"{value!r} is no base64")
    return base64.b64decode(value.value, validate=True)


def _read_date(zone: Zone, _column: Column, value: JavaValue) -> Value:
    return value if isinstance(value, str) else zone.local(value).date().isoformat()


def _read_year(zone: Zone, _column: Column, value: JavaValue) -> Value:
    if isinstance(value, int) or (isinstance(value, Typed) and value.java_class == "java.lang.Short"):
        return int(_number(value))
    return zone.local(value).year


def _read_time(_zone: Zone, column: Column, value: JavaValue) -> Value:
    if isinstance(value, Typed) and value.java_class == _TIME and isinstance(value.value, str):
        return _with_fraction(value.value, 0, _width(column))
    if isinstance(value, str):
        return value
    raise ValueNotSupported(f"{value!r} is no time of day")


def _read_datetime(zone: Zone, column: Column, value: JavaValue) -> Value:
    return value if isinstance(value, str) else _datetime_text(zone.local(value), _width(column))


def _read_timestamp(zone: Zone, column: Column, value: JavaValue) -> Value:
    return value if isinstance(value, str) else _datetime_text(zone.local(value, UTC), _width(column))


_READERS: Mapping[Family, Callable[[Zone, Column, JavaValue], Value]] = MappingProxyType(
    {
        Family.INTEGER: _read_integer,
        Family.BOOLEAN: _read_integer,
        Family.BIT: _read_bits,
        Family.DECIMAL: _read_decimal,
        Family.FLOAT: _read_float,
        Family.DOUBLE: _read_double,
        Family.TEXT: _read_text,
        Family.BINARY: _read_binary,
        Family.DATE: _read_date,
        Family.TIME: _read_time,
        Family.DATETIME: _read_datetime,
        Family.TIMESTAMP: _read_timestamp,
        Family.YEAR: _read_year,
    }
)


# --- in a lock key ---


def lock_part(column: Column, value: object) -> str:
    """`value` as Java's `String.valueOf` spells what its driver gives for it."""
    match family(column), value:
        case (Family.BOOLEAN, int()) | (Family.BIT, int()) if column.jdbc_type == Jdbc.BIT and _width(column) <= 1:
            return "true" if value else "false"
        case Family.DATETIME, str():
            return _java_local_text(value)
        case Family.TIMESTAMP, str():
            return _java_timestamp_text(value)
        case _, bytes():
            return "x" + value.hex()
        case _, float():
            return repr(value)
        case _:
            return str(value)


def _java_local_text(text: str) -> str:
    """`LocalDateTime.toString`: no seconds where they are zero, a fraction of three or six digits."""
    day, _, clock = text.partition(" ")
    whole, _, fraction = clock.partition(".")
    fraction = fraction.ljust(6, "0")
    if fraction == "000000":
        return f"{day}T{whole.removesuffix(':00') if whole.count(':') == 2 else whole}"
    return f"{day}T{whole}.{fraction.removesuffix('000')}"


def _java_timestamp_text(text: str) -> str:
    """`Timestamp.toString`: at least one digit of a fraction, no zeros behind it."""
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction.rstrip('0') or '0'}"


__all__ = ["Family", "Jdbc", "Value", "Zone", "family", "from_driver", "is_known", "jdbc_type"]
