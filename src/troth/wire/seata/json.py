"""Frames as JSON objects, with Seata's names: what `troth wire` prints and reads.

`{"type", "type_code", "protocol_version", "codec", "compressor", "message_type", "request_id", "head_map" (if not
empty), "fields", "body_hex"}`. Enums are written as their names, `message_type` as its number.
"""

from collections.abc import Callable, Mapping
from enum import IntEnum
from functools import partial
from types import MappingProxyType
from typing import Final, TypeAlias, TypeVar

import msgspec

from troth.wire.seata.bodies import ALL_LAYOUTS
from troth.wire.seata.enums import (
    BranchStatus,
    BranchType,
    CompressorType,
    GlobalStatus,
    MessageType,
    ResultCode,
    SerializerType,
    TransactionExceptionCode,
)
from troth.wire.seata.errors import WireError
from troth.wire.seata.frame import NO_HEAD_MAP, Frame, decode_frame, encode_frame, raw_body
from troth.wire.seata.lock_wait import RowLockMode
from troth.wire.seata.messages import HeartbeatMessage, Message

JsonValue: TypeAlias = "str | int | float | bool | list[JsonValue] | dict[str, JsonValue] | None"
JsonObject: TypeAlias = dict[str, JsonValue]
_Parser: TypeAlias = Callable[[str, JsonValue], object]
_EnumT = TypeVar("_EnumT", bound=IntEnum)

FIELD_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "application_data": "applicationData",
        "application_id": "applicationId",
        "attempt": "attempt",
        "branch_id": "branchId",
        "branch_status": "branchStatus",
        "branch_type": "branchType",
        "check_interval_ms": "checkIntervalMs",
        "extra_data": "extraData",
        "failed": "failed",
        "first": "first",
        "gid": "gid",
        "global_status": "globalStatus",
        "identified": "identified",
        "keep_ms": "keepMs",
        "key": "key",
        "known": "known",
        "lock_key": "lockKey",
        "lock_mode": "lockMode",
        "lockable": "lockable",
        "msg": "msg",
        "msg_ids": "msgIds",
        "msgs": "msgs",
        "records": "records",
        "resource_id": "resourceId",
        "resource_ids": "resourceIds",
        "result_code": "resultCode",
        "result_messages": "resultMessages",
        "save_days": "saveDays",
        "status": "status",
        "superseded_by": "supersededBy",
        "timeout_ms": "timeout",
        "total": "total",
        "transaction_exception_code": "transactionExceptionCode",
        "transaction_name": "transactionName",
        "transaction_service_group": "transactionServiceGroup",
        "version": "version",
        "xid": "xid",
    }
)
"""Name here to name in Seata's classes, for every field of every message."""


def frame_to_object(data: bytes) -> JsonObject:
    """The one frame in `data` as an object. `WireError` if it is none.

    `body_hex` is the uncompressed body as it came: in version 1 with its type code, in version 0 without.
    """
    frame = decode_frame(data)
    shown: JsonObject = {
        "type": type(frame.body).__name__,
        "type_code": int(frame.body.TYPE_CODE),
        "protocol_version": frame.protocol_version,
        "codec": frame.codec.name,
        "compressor": frame.compressor.name,
        "message_type": int(frame.message_type),
        "request_id": frame.request_id,
    }
    if frame.head_map:
        shown["head_map"] = dict(frame.head_map)
    shown["fields"] = message_to_fields(frame.body)
    shown["body_hex"] = raw_body(data).hex()
    return shown


def object_to_frame(shown: JsonValue) -> bytes:
    """The frame that an object describes, from its `fields` and never its `body_hex`. `WireError` if it describes none.

    `codec`, `compressor`, `protocol_version` and `head_map` may be left out; keys that are not named above are ignored.
    """
    if not isinstance(shown, dict):
        raise WireError("not a JSON object", 0)
    message = _message("", shown)
    frame = Frame(
        protocol_version=_integer("protocol_version", shown.get("protocol_version", 1)),
        message_type=_message_type(shown.get("message_type")),
        codec=_member(SerializerType, "codec", shown.get("codec", SerializerType.SEATA.name)),
        compressor=_member(CompressorType, "compressor", shown.get("compressor", CompressorType.NONE.name)),
        request_id=_integer("request_id", shown.get("request_id")),
        head_map=_head_map(shown.get("head_map")),
        body=message,
    )
    return encode_frame(frame)


def message_to_fields(message: Message) -> JsonObject:
    """The fields of a message under Seata's names."""
    return {FIELD_NAMES[name]: _shown(getattr(message, name)) for name in message.__struct_fields__}


def fields_to_message(message_type: type[Message], fields: JsonValue, path: str = "fields") -> Message:
    """The message with these fields. `WireError` for a field that is missing, unknown or of the wrong type."""
    if not isinstance(fields, dict):
        raise WireError(f"{path}: not an object", 0)
    known = _FIELDS[message_type]
    for name in fields:
        if name not in known:
            raise WireError(f"{path}: {message_type.__name__} has no field {name!r}", 0)
    values = {}
    for name, field in known.items():
        if name in fields:
            values[field.name] = _PARSERS[field.type](f"{path}.{name}", fields[name])
        elif field.required:
            raise WireError(f"{path}: {message_type.__name__} needs the field {name!r}", 0)
    return message_type(**values)


def _shown(value: object) -> JsonValue:
    if isinstance(value, IntEnum):
        return value.name
    if isinstance(value, tuple):
        return [_shown(item) for item in value]
    if isinstance(value, Message):
        return {
            "type_code": int(value.TYPE_CODE),
            "type": type(value).__name__,
            "fields": message_to_fields(value),
        }
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(f"a message holds a {type(value).__name__}")


def _message(path: str, shown: JsonValue) -> Message:
    """A message by `type`, `fields` and perhaps `type_code`: as whole objects and merged messages have them."""
    where = f"{path}." if path else ""
    if not isinstance(shown, dict):
        raise WireError(f"{path}: not an object", 0)
    name = shown.get("type")
    message_type = _MESSAGES.get(name) if isinstance(name, str) else None
    if message_type is None:
        raise WireError(f"{where}type: {name!r} is no message of Seata's", 0)
    code = shown.get("type_code", int(message_type.TYPE_CODE))
    if code != message_type.TYPE_CODE:
        raise WireError(f"{where}type_code: {name} has {int(message_type.TYPE_CODE)}, not {code!r}", 0)
    return fields_to_message(message_type, shown.get("fields"), f"{where}fields")


def _message_type(value: JsonValue) -> MessageType:
    code = _integer("message_type", value)
    if code not in _MESSAGE_TYPES:
        raise WireError(f"message_type: {code} is none of 0 to 4", 0)
    return MessageType(code)


def _head_map(value: JsonValue) -> Mapping[str, str | None]:
    if value is None:
        return NO_HEAD_MAP
    if not isinstance(value, dict):
        raise WireError("head_map: not an object", 0)
    return {key: _text(f"head_map.{key}", text) for key, text in value.items()}


def _text(path: str, value: JsonValue) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise WireError(f"{path}: neither text nor null", 0)


def _integer(path: str, value: JsonValue) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise WireError(f"{path}: not an integer", 0)


def _boolean(path: str, value: JsonValue) -> bool:
    if isinstance(value, bool):
        return value
    raise WireError(f"{path}: neither true nor false", 0)


def _member(kind: type[_EnumT], path: str, value: JsonValue) -> _EnumT:
    if isinstance(value, str) and value in kind.__members__:
        return kind[value]
    raise WireError(f"{path}: {value!r} is no {kind.__name__}", 0)


def _optional_member(kind: type[_EnumT], path: str, value: JsonValue) -> _EnumT | None:
    return None if value is None else _member(kind, path, value)


def _list(path: str, value: JsonValue) -> list[JsonValue]:
    if isinstance(value, list):
        return value
    raise WireError(f"{path}: not a list", 0)


def _messages(path: str, value: JsonValue) -> tuple[Message, ...]:
    return tuple(_message(f"{path}[{index}]", item) for index, item in enumerate(_list(path, value)))


def _integers(path: str, value: JsonValue) -> tuple[int, ...]:
    return tuple(_integer(f"{path}[{index}]", item) for index, item in enumerate(_list(path, value)))


_MESSAGE_TYPES: Final = frozenset(int(kind) for kind in MessageType)

_PARSERS: Final[Mapping[object, _Parser]] = MappingProxyType(
    {
        str | None: _text,
        int: _integer,
        bool: _boolean,
        BranchType: partial(_member, BranchType),
        BranchStatus: partial(_member, BranchStatus),
        GlobalStatus: partial(_member, GlobalStatus),
        GlobalStatus | None: partial(_optional_member, GlobalStatus),
        ResultCode: partial(_member, ResultCode),
        RowLockMode: partial(_member, RowLockMode),
        ResultCode | None: partial(_optional_member, ResultCode),
        TransactionExceptionCode: partial(_member, TransactionExceptionCode),
        tuple[Message, ...]: _messages,
        tuple[int, ...]: _integers,
    }
)

_KINDS: Final[tuple[type[Message], ...]] = (HeartbeatMessage, *(layout.message for layout in ALL_LAYOUTS.values()))

_MESSAGES: Final[Mapping[str, type[Message]]] = MappingProxyType({kind.__name__: kind for kind in _KINDS})

_FIELDS: Final = MappingProxyType(
    {
        kind: MappingProxyType({FIELD_NAMES[field.name]: field for field in msgspec.structs.fields(kind)})
        for kind in _KINDS
    }
)
