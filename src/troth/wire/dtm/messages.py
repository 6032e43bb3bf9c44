"""DTM's requests: the transaction, the registration of a branch. Names are those of its JSON."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from troth.wire.dtm.results import BadInput

T = TypeVar("T")

SAGA = "saga"
TCC = "tcc"
MSG = "msg"
XA = "xa"
WORKFLOW = "workflow"
TRANS_TYPES = frozenset({SAGA, TCC, MSG, XA, WORKFLOW})
PROTOCOLS = frozenset({"", "http", "grpc", "json-rpc"})

LONGEST_GID_BYTES = 4096
_GID_ESCAPES = str.maketrans("", "", "\r\n;")


class Options(msgspec.Struct, omit_defaults=True):
    """How a transaction is to be run. Times are whole seconds, 0 for the server's own."""

    wait_result: bool | None = None
    timeout_to_fail: int | None = None
    request_timeout: int | None = None
    retry_interval: int | None = None
    retry_limit: int | None = None
    concurrent: bool | None = None
    branch_headers: dict[str, str] | None = None


class Trans(msgspec.Struct, omit_defaults=True):
    """A transaction as a client sends it: JSON's null is the same as leaving it out.

    `bin_payloads` are the payloads of a door that carries bytes (gRPC); they win over `payloads` and `steps[].data`.
    """

    gid: str | None = None
    trans_type: str | None = None
    steps: list[dict[str, str | None]] | None = None
    payloads: list[str] | None = None
    bin_payloads: list[bytes] | None = None
    custom_data: str | None = None
    query_prepared: str | None = None
    protocol: str | None = None
    rollback_reason: str | None = None
    req_extra: dict[str, str] | None = None
    passthrough_headers: list[str] | None = None
    wait_result: bool | None = None
    timeout_to_fail: int | None = None
    request_timeout: int | None = None
    retry_interval: int | None = None
    retry_limit: int | None = None
    concurrent: bool | None = None
    branch_headers: dict[str, str] | None = None

    @property
    def options(self) -> Options:
        """The options alone."""
        return Options(
            self.wait_result or None,
            self.timeout_to_fail or None,
            self.request_timeout or None,
            self.retry_interval or None,
            self.retry_limit or None,
            bool(self.concurrent),
            self.branch_headers or None,
        )


class Registration(msgspec.Struct):
    """A branch that a client adds. `data` has confirm and cancel, or url, or op and status; `payload` is the body."""

    gid: str
    trans_type: str
    branch_id: str
    data: dict[str, str]
    payload: bytes = b""


class GidOnly(msgspec.Struct):
    """A request that names a transaction and nothing else."""

    gid: str | None = None


def decode_trans(body: bytes | msgspec.Raw) -> Trans:
    """Raises BadInput."""
    return _decode(body, _TRANS)


def decode_gid(body: bytes | msgspec.Raw) -> str:
    """The gid of `{"gid": …}`. Raises BadInput."""
    return clean_gid(_decode(body, _GID).gid)


def decode_registration(body: bytes | msgspec.Raw) -> Registration:
    """A flat object of texts (a number is refused, as DTM does). Raises BadInput."""
    flat = _decode(body, _FLAT)
    return Registration(
        clean_gid(flat.get("gid")),
        flat.get("trans_type") or "",
        flat.get("branch_id") or "",
        {name: value or "" for name, value in flat.items() if name not in _OWN_NAMES},
        (flat.get("data") or "").encode(),
    )


def clean_gid(gid: str | None) -> str:
    """As DTM writes it: without CR, LF and `;`. Raises BadInput where nothing is left, or too much."""
    cleaned = (gid or "").translate(_GID_ESCAPES)
    if not cleaned:
        raise BadInput("gid must not be empty")
    try:
        length = len(cleaned.encode())
    except UnicodeEncodeError:
        raise BadInput("gid is not text") from None
    if length > LONGEST_GID_BYTES:
        raise BadInput(f"gid has {length} bytes, the most are {LONGEST_GID_BYTES}")
    return cleaned


def _decode(body: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[T]) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"the request is not what it should be: {error}") from None


_OWN_NAMES = frozenset({"gid", "trans_type", "branch_id", "data"})
_TRANS = msgspec.json.Decoder(Trans)
_GID = msgspec.json.Decoder(GidOnly)
_FLAT = msgspec.json.Decoder(dict[str, str | None])
