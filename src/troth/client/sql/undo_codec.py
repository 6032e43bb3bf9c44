"""`rollback_info` ⇄ `BranchUndoLog`: Seata's Jackson JSON with its type tags, and the `context` text (PROTOCOL §10).

Every object starts with `@class`, lists are `["java.util.ArrayList", […]]`, and a value that JSON can not type by
itself is `[class, value]`. Numbers keep their digits: a BigDecimal's `7.5000` stays `7.5000`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from json.encoder import encode_basestring
from types import MappingProxyType
from typing import Final

from troth.client.sql.undo import BranchUndoLog, Field, Row, SqlUndoLog, TableRecords
from troth.client.sql.values import Bean, JavaValue, JsonValue, Typed, java_double_text
from troth.wire.seata.compressors import compress, decompress
from troth.wire.seata.enums import CompressorType
from troth.wire.seata.errors import WireError

SERIALIZER = "serializer"
COMPRESSOR = "compressorType"
SPLIT = "subId"
"""Of a log split over several rows: the branch ids of the others. Who reads such a log joins it first."""
JACKSON = "jackson"
DELTA = "troth-delta"
"""The same JSON, but what it holds are deltas (`additive`): nobody else may take them for images."""
MAX_INFO_BYTES: Final = 256 * 1024 * 1024
"""A compressed `rollback_info` is not unfolded beyond this."""

_LIST = "java.util.ArrayList"
_PACKAGES = ("org.apache.seata", "io.seata")
_UNDO = ".rm.datasource.undo."
_STRUCT = ".rm.datasource.sql.struct."
_COMPRESSORS: Mapping[str, CompressorType] = MappingProxyType(
    {**{kind.name.upper(): kind for kind in CompressorType}, "": CompressorType.NONE}
)


class UndoCodecError(ValueError):
    """What can not be read (or written) as an undo log: `reason`, and `offset` in the JSON text where known."""

    def __init__(self, reason: str, offset: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.offset = offset


# --- context ----------------------------------------------------------------------------------------------------------


def context_text(values: Mapping[str, str]) -> str:
    """`k=v&k=v`, in order."""
    return "&".join(f"{key}={value}" for key, value in values.items())


def parse_context(text: str) -> dict[str, str]:
    """`k=v&k=v` as a dict, in order; a value may be empty or hold `=`."""
    pairs = (part.partition("=") for part in text.split("&") if part)
    return {key: value for key, _, value in pairs}


def _compressor(context: Mapping[str, str]) -> CompressorType:
    serializer = context.get(SERIALIZER)
    if serializer not in (JACKSON, DELTA):
        named = f"serializer {serializer!r}" if serializer else "a context without `serializer`"
        raise UndoCodecError(f"{named} is not supported: this client reads and writes `jackson` only")
    name = context.get(COMPRESSOR, "")
    if name.upper() not in _COMPRESSORS:
        raise UndoCodecError(f"compressor {name!r} is not known")
    if SPLIT in context:
        raise UndoCodecError(f"an undo log that is split over several rows (`{SPLIT}`) has to be joined first")
    return _COMPRESSORS[name.upper()]


# --- reading ----------------------------------------------------------------------------------------------------------


def decode(context: str, rollback_info: bytes) -> BranchUndoLog:
    """The undo log in `rollback_info`, read as `context` says. Raises UndoCodecError."""
    return decode_text(unpack(context, rollback_info))


def unpack(context: str, rollback_info: bytes) -> str:
    """The JSON text in `rollback_info`, decompressed as `context` says. Raises UndoCodecError."""
    compressor = _compressor(parse_context(context))
    try:
        return decompress(compressor, rollback_info, MAX_INFO_BYTES).decode("utf-8")
    except WireError as error:
        raise UndoCodecError(str(error)) from error
    except UnicodeDecodeError as error:
        raise UndoCodecError(f"rollback_info is not UTF-8: {error.reason}", error.start) from error


def decode_text(text: str) -> BranchUndoLog:
    """The undo log in Jackson's JSON `text`. Raises UndoCodecError."""
    try:
        tree: JsonValue = json.loads(text, parse_float=Decimal, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise UndoCodecError(f"rollback_info is not JSON: {error.msg}", error.pos) from error
    except RecursionError as error:
        raise UndoCodecError("rollback_info is nested too deeply") from error
    return _branch(tree)


def _no_constant(name: str) -> None:
    raise UndoCodecError(f"{name} is not a JSON number")


def _branch(tree: JsonValue) -> BranchUndoLog:
    package = _package(tree)
    node = _object(tree, package + _UNDO + "BranchUndoLog", ("xid", "branchId", "sqlUndoLogs"))
    logs = tuple(_sql_undo_log(package, item) for item in _list(node["sqlUndoLogs"], "sqlUndoLogs"))
    return BranchUndoLog(_text(node, "xid"), _integer(node, "branchId"), logs, package)


def _package(tree: JsonValue) -> str:
    name = tree.get("@class") if isinstance(tree, dict) else None
    for package in _PACKAGES:
        if isinstance(name, str) and name.startswith(package + "."):
            return package
    raise UndoCodecError(f"rollback_info is not a BranchUndoLog but {_shown(name or tree)}")


def _sql_undo_log(package: str, tree: JsonValue) -> SqlUndoLog:
    keys = ("sqlType", "tableName", "beforeImage", "afterImage")
    node = _object(tree, package + _UNDO + "SQLUndoLog", keys)
    before = _records(package, node["beforeImage"])
    after = _records(package, node["afterImage"])
    return SqlUndoLog(_text(node, "sqlType"), _text(node, "tableName"), before, after)


def _records(package: str, tree: JsonValue) -> TableRecords:
    plain = package + _STRUCT + "TableRecords"
    is_empty = isinstance(tree, dict) and tree.get("@class") == plain + "$EmptyTableRecords"
    node = _object(tree, plain + "$EmptyTableRecords" if is_empty else plain, ("tableName", "rows"))
    name = None if node["tableName"] is None else _text(node, "tableName")
    return TableRecords(name, tuple(_row(package, item) for item in _list(node["rows"], "rows")), is_empty)


def _row(package: str, tree: JsonValue) -> Row:
    node = _object(tree, package + _STRUCT + "Row", ("fields",))
    return Row(tuple(_field(package, item) for item in _list(node["fields"], "fields")))


def _field(package: str, tree: JsonValue) -> Field:
    node = _object(tree, package + _STRUCT + "Field", ("name", "keyType", "type", "value"), frozenset({"text"}))
    text = _text(node, "text") if "text" in node else None
    return Field(_text(node, "name"), _text(node, "keyType"), _integer(node, "type"), java_value(node["value"]), text)


def java_value(value: JsonValue) -> JavaValue:
    """A bare JSON value, or Jackson's `[class, value]`, or its `{"@class": class, …}`."""
    match value:
        case Decimal():
            return _double(value)
        case None | bool() | int() | float() | str():
            return value
        case [str(java_class), inner]:
            return Typed(java_class, inner)
        case dict():
            name = value.get("@class")
            if isinstance(name, str):
                return Bean(name, tuple((key, inner) for key, inner in value.items() if key != "@class"))
            raise UndoCodecError(f"an object without its class: {_shown(value)}")
        case _:
            raise UndoCodecError(
                f"a value that is neither bare nor [class, value] nor an object with its class: {_shown(value)}"
            )


def _double(value: Decimal) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise UndoCodecError(f"{_shown(str(value))} is out of the range of a double")
    return number


def _object(
    tree: JsonValue, java_class: str, keys: tuple[str, ...], optional: frozenset[str] = frozenset()
) -> dict[str, JsonValue]:
    if not isinstance(tree, dict) or tree.get("@class") != java_class:
        found = tree.get("@class") if isinstance(tree, dict) else tree
        raise UndoCodecError(f"expected {java_class}, found {_shown(found)}")
    missing = [key for key in keys if key not in tree]
    unknown = [key for key in tree if key != "@class" and key not in keys and key not in optional]
    if missing or unknown:
        raise UndoCodecError(f"{java_class}: missing {missing}, not known {unknown}")
    return tree


def _list(tree: JsonValue, name: str) -> list[JsonValue]:
    match tree:
        case [str(java_class), list(items)] if java_class == _LIST:
            return items
        case _:
            raise UndoCodecError(f"{name} is not a {_LIST} but {_shown(tree)}")


def _text(node: Mapping[str, JsonValue], key: str) -> str:
    value = node[key]
    if not isinstance(value, str):
        raise UndoCodecError(f"{key} is not a text but {_shown(value)}")
    return value


def _integer(node: Mapping[str, JsonValue], key: str) -> int:
    value = node[key]
    if not isinstance(value, int) or isinstance(value, bool):
        raise UndoCodecError(f"{key} is not an integer but {_shown(value)}")
    return value


def _shown(value: object) -> str:
    return repr(value)[:80]


# --- writing ----------------------------------------------------------------------------------------------------------


def encode(context: str, log: BranchUndoLog) -> bytes:
    """`log` as `rollback_info`, compressed as `context` says. Raises UndoCodecError."""
    compressor = _compressor(parse_context(context))
    try:
        return compress(compressor, encode_text(log).encode("utf-8"))
    except UnicodeEncodeError as error:
        raise UndoCodecError(f"a text that UTF-8 can not hold: {error.reason}", error.start) from error
    except WireError as error:
        raise UndoCodecError(str(error)) from error


def encode_text(log: BranchUndoLog) -> str:
    """`log` as Jackson writes it."""
    logs = ",".join(_sql_undo_log_text(log.package, item) for item in log.sql_undo_logs)
    return (
        f'{{"@class":"{log.package}{_UNDO}BranchUndoLog","xid":{json_text(log.xid)},"branchId":{log.branch_id},'
        f'"sqlUndoLogs":["{_LIST}",[{logs}]]}}'
    )


def _sql_undo_log_text(package: str, log: SqlUndoLog) -> str:
    return (
        f'{{"@class":"{package}{_UNDO}SQLUndoLog","sqlType":{json_text(log.sql_type)},"tableName":{json_text(log.table_name)},'
        f'"beforeImage":{_records_text(package, log.before)},"afterImage":{_records_text(package, log.after)}}}'
    )


def _records_text(package: str, records: TableRecords) -> str:
    java_class = f"{package}{_STRUCT}TableRecords" + ("$EmptyTableRecords" if records.empty else "")
    rows = ",".join(_row_text(package, row) for row in records.rows)
    return f'{{"@class":"{java_class}","tableName":{json_text(records.table_name)},"rows":["{_LIST}",[{rows}]]}}'


def _row_text(package: str, row: Row) -> str:
    fields = ",".join(
        [
            f'{{"@class":"{package}{_STRUCT}Field","name":{encode_basestring(field.name)},'
            f'"keyType":{encode_basestring(field.key_type)},"type":{field.type},"value":{_value_text(field.value)}{_extra(field)}}}'
            for field in row.fields
        ]
    )
    return f'{{"@class":"{package}{_STRUCT}Row","fields":["{_LIST}",[{fields}]]}}'


def _extra(field: Field) -> str:
    return "" if field.text is None else f',"text":{json_text(field.text)}'


def _value_text(value: JavaValue) -> str:
    if isinstance(value, str):
        return encode_basestring(value)
    if isinstance(value, Typed):
        return f"[{json_text(value.java_class)},{json_text(value.value)}]"
    if isinstance(value, Bean):
        return json_text({"@class": value.java_class, **dict(value.properties)})
    return json_text(value)


def json_text(value: JsonValue) -> str:
    """JSON text. The standard writer has no Decimal, and writes doubles in another way than Java."""
    match value:
        case str():
            return encode_basestring(value)
        case float():
            return java_double_text(value)
        case Decimal():
            return str(value)
        case list():
            return f"[{','.join(map(json_text, value))}]"
        case dict():
            return f"{{{','.join(f'{json_text(key)}:{json_text(inner)}' for key, inner in value.items())}}}"
        case int() if not isinstance(value, bool):
            return int.__repr__(value)  # as the standard writer does it, in a tenth of its time
        case _:
            return json.dumps(value)
