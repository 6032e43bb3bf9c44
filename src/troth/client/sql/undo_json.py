"""An undo log as plain JSON, without Java's class names: what `troth undo` shows and takes.

Keys are Seata's (`xid, branchId, sqlUndoLogs, sqlType, tableName, beforeImage, afterImage, rows, fields, name, keyType,
type, value`, and `text` where ours has it); `"empty": true` marks an `EmptyTableRecords`, and `package` is there where
it is not `org.apache.seata`.
"""

from __future__ import annotations

from troth.client.sql.undo import BranchUndoLog, Field, Row, SqlUndoLog, TableRecords
from troth.client.sql.undo_codec import UndoCodecError, java_value, json_text
from troth.client.sql.values import Bean, JavaValue, JsonValue, Typed

_PACKAGE = "org.apache.seata"


def to_plain(log: BranchUndoLog) -> str:
    """`log` as one JSON object, as text: its numbers keep their digits."""
    logs: list[JsonValue] = [_sql_undo_log(item) for item in log.sql_undo_logs]
    tree: dict[str, JsonValue] = {"xid": log.xid, "branchId": log.branch_id, "sqlUndoLogs": logs}
    if log.package != _PACKAGE:
        tree["package"] = log.package
    return json_text(tree)


def _sql_undo_log(log: SqlUndoLog) -> JsonValue:
    return {
        "sqlType": log.sql_type,
        "tableName": log.table_name,
        "beforeImage": _records(log.before),
        "afterImage": _records(log.after),
    }


def _records(records: TableRecords) -> JsonValue:
    rows: list[JsonValue] = [{"fields": [_field(field) for field in row.fields]} for row in records.rows]
    tree: dict[str, JsonValue] = {"tableName": records.table_name, "rows": rows}
    if records.empty:
        tree["empty"] = True
    return tree


def _field(field: Field) -> JsonValue:
    node: dict[str, JsonValue] = {"name": field.name, "keyType": field.key_type, "type": field.type}
    node["value"] = _value(field.value)
    if field.text is not None:
        node["text"] = field.text
    return node


def _value(value: JavaValue) -> JsonValue:
    match value:
        case Typed():
            return [value.java_class, value.value]
        case Bean():
            return {"@class": value.java_class, **dict(value.properties)}
        case _:
            return value


def from_plain(tree: JsonValue) -> BranchUndoLog:
    """The log in a parsed JSON object (numbers with a fraction as Decimal). Raises UndoCodecError."""
    node = _object(tree, "undo_log")
    logs = tuple(_read_sql_undo_log(item) for item in _list(node, "sqlUndoLogs"))
    package = _text(node, "package") if "package" in node else _PACKAGE
    return BranchUndoLog(_text(node, "xid"), _integer(node, "branchId"), logs, package)


def _read_sql_undo_log(tree: JsonValue) -> SqlUndoLog:
    node = _object(tree, "sqlUndoLogs[]")
    before, after = _read_records(node.get("beforeImage")), _read_records(node.get("afterImage"))
    return SqlUndoLog(_text(node, "sqlType"), _text(node, "tableName"), before, after)


def _read_records(tree: JsonValue) -> TableRecords:
    node = _object(tree, "image")
    name = None if node.get("tableName") is None else _text(node, "tableName")
    rows = tuple(Row(tuple(map(_read_field, _list(_object(row, "rows[]"), "fields")))) for row in _list(node, "rows"))
    return TableRecords(name, rows, node.get("empty") is True)


def _read_field(tree: JsonValue) -> Field:
    node = _object(tree, "fields[]")
    if "value" not in node:
        raise UndoCodecError("a field has no value (null is one)")
    text = _text(node, "text") if "text" in node else None
    return Field(_text(node, "name"), _text(node, "keyType"), _integer(node, "type"), java_value(node["value"]), text)


def _object(tree: JsonValue, name: str) -> dict[str, JsonValue]:
    if not isinstance(tree, dict):
        raise UndoCodecError(f"{name} is not an object")
    return tree


def _list(node: dict[str, JsonValue], key: str) -> list[JsonValue]:
    value = node.get(key)
    if not isinstance(value, list):
        raise UndoCodecError(f"{key} is not a list")
    return value


def _text(node: dict[str, JsonValue], key: str) -> str:
    value = node.get(key)
    if not isinstance(value, str):
        raise UndoCodecError(f"{key} is not a text")
    return value


def _integer(node: dict[str, JsonValue], key: str) -> int:
    value = node.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UndoCodecError(f"{key} is not an integer")
    return value
