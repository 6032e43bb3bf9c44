"""JSON-RPC 2.0 as DTM speaks it: at its door, and towards branches of protocol json-rpc."""

from __future__ import annotations

import msgspec

from troth.wire.dtm.results import Refused, Verdict, rpc_verdict

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
UNKNOWN_METHOD = -32601


class RpcRequest(msgspec.Struct):
    """One call of a method. A raw value that is missing has no bytes."""

    jsonrpc: str = ""
    id: str | int | None = None
    method: str = ""
    params: msgspec.Raw = msgspec.Raw(b"")


class RpcError(msgspec.Struct):
    """Why a method did not do it."""

    code: int
    message: str


class RpcResponse(msgspec.Struct):
    """What came of it: `error` is null, or `result` is."""

    jsonrpc: str
    id: str | int | None
    error: RpcError | None
    result: object


class _Outcome(msgspec.Struct):
    error: dict[str, object] | None = None


def decode_request(body: bytes) -> RpcRequest | RpcResponse:
    """The request, or the answer to one that is none."""
    try:
        request = _REQUEST.decode(body)
    except msgspec.ValidationError as error:
        return rpc_error(None, INVALID_REQUEST, f"not a request: {error}")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return rpc_error(None, PARSE_ERROR, f"not JSON: {error}")
    if request.jsonrpc != "2.0" or not isinstance(request.id, str) or not request.id:
        return rpc_error(request.id, INVALID_REQUEST, 'jsonrpc must be "2.0", and id a text that is not empty')
    return request


def rpc_result(request_id: str | int | None, result: object) -> RpcResponse:
    """It is done."""
    return RpcResponse("2.0", request_id, None, result)


def rpc_error(request_id: str | int | None, code: int, message: str) -> RpcResponse:
    """It is not."""
    return RpcResponse("2.0", request_id, RpcError(code, message), None)


def rpc_refusal(request_id: str | int | None, refused: Refused) -> RpcResponse:
    """What a refusal is here."""
    return rpc_error(request_id, refused.rpc_code, str(refused))


def call_body(method: str, payload: bytes, call_id: str, meta: dict[str, str]) -> bytes:
    """The body of a call to a branch: its payload's members beside gid, trans_type, branch_id and op.

    Raises msgspec.DecodeError where the payload is no JSON object.
    """
    params: dict[str, object] = msgspec.json.decode(payload, type=dict[str, object]) if payload else {}
    return msgspec.json.encode({"jsonrpc": "2.0", "method": method, "id": call_id, "params": {**params, **meta}})


def verdict_of(body: bytes) -> tuple[Verdict, str]:
    """What a branch's JSON-RPC answer means, and its error's text."""
    try:
        error = _OUTCOME.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        return Verdict.RETRY, f"not a JSON-RPC answer: {problem}"
    if error is None:
        return Verdict.DONE, ""
    code = error.get("code")
    return rpc_verdict(code if isinstance(code, int) else 0), str(error.get("message", ""))


_REQUEST = msgspec.json.Decoder(RpcRequest)
_OUTCOME = msgspec.json.Decoder(_Outcome)
