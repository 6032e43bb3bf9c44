"""A branch by URL: what is kept of it, and how it is called."""

from __future__ import annotations

import msgspec

ACTION = "action"
COMPENSATE = "compensate"
CONFIRM = "confirm"
CANCEL = "cancel"
COMMIT = "commit"
ROLLBACK = "rollback"
MSG_OP = "msg"
RUNNER_ID = "00"
"""DTM's branch id of a check-back."""


class UrlBranch(msgspec.Struct, frozen=True, omit_defaults=True):
    """One branch: its DTM id ("01"), the URL of each op, and the payload as text or, if it is none, as bytes."""

    id: str
    urls: dict[str, str]
    text: str = ""
    raw: bytes = b""

    @property
    def payload(self) -> bytes:
        """The body of each call."""
        return self.raw or self.text.encode()


class Detail(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """What DTM's door keeps of a transaction and the core does not need to understand.

    `options` is their JSON text; `headers` go with every call; `request_timeout_ms` bounds each. `timeout_to_fail_s` is
    shown in the reason of a rollback.
    """

    protocol: str = ""
    custom_data: str = ""
    query_prepared: str = ""
    options: str = ""
    headers: dict[str, str] = {}
    request_timeout_ms: int = 0
    timeout_to_fail_s: int = 0


def url_branch(branch_id: str, urls: dict[str, str], payload: bytes) -> UrlBranch:
    """A branch with its payload in the form that keeps it whole."""
    try:
        return UrlBranch(branch_id, urls, payload.decode())
    except UnicodeDecodeError:
        return UrlBranch(branch_id, urls, raw=payload)


def encode_branch(branch: UrlBranch) -> str:
    """JSON text: no raw NUL, whatever the payload."""
    return _ENCODER.encode(branch).decode()


def decode_branch(text: str) -> UrlBranch:
    """What `encode_branch` made. Raises msgspec.DecodeError for anything else."""
    return _BRANCH.decode(text)


def encode_detail(detail: Detail) -> bytes:
    """The bytes that the core keeps."""
    return msgspec.msgpack.encode(detail)


def decode_detail(data: bytes) -> Detail:
    """What `encode_detail` made; nothing said where there is nothing."""
    return _DETAIL.decode(data) if data else _NO_DETAIL


_ENCODER = msgspec.json.Encoder()
_BRANCH = msgspec.json.Decoder(UrlBranch)
_DETAIL = msgspec.msgpack.Decoder(Detail)
_NO_DETAIL = Detail()
