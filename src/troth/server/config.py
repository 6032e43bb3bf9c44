"""Everything that can be set on a coordinator, typed, with its default (`sources.py` reads file and environment)."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal
from urllib.parse import urlsplit

try:
    from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
except ImportError as missing:
    raise ImportError("the coordinator needs more libraries: pip install 'troth[server]'") from missing

from troth.server.units import DurationMark, DurationMs, SizeBytes, parse_duration_ms, parse_size_bytes

LONGEST_HOST_BYTES = 38
"""`host:port:id` must fit in the 64 bytes of an XA gtrid (design/coordinator §3)."""


def _port(value: object) -> object:
    """A port number, 0 for any free one, None for a door that stays shut (`off`)."""
    if value == "off" or value is None:
        return None
    text = str(value)
    if isinstance(value, bool) or not text.isdecimal() or int(text) > 65535:
        raise ValueError("a port from 1 to 65535, 0 for any free one, or off")
    return int(text)


def _whole(value: object) -> object:
    text = str(value)
    if isinstance(value, bool) or not text.isdecimal() or not 0 < int(text) < 2**31:
        raise ValueError("a whole number greater than 0")
    return int(text)


def _truth(value: object) -> object:
    if isinstance(value, bool):
        return value
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if not isinstance(value, str) or value.lower() not in known:
        raise ValueError("true or false")
    return known[value.lower()]


def _address_text(value: object) -> object:
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise ValueError("HOST or HOST:PORT")
    host, _ = split_address(value)
    if len(host.encode()) > LONGEST_HOST_BYTES:
        raise ValueError(f"a host of at most {LONGEST_HOST_BYTES} bytes: it becomes part of every xid")
    return value


def _text(value: object) -> object:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a text that is not empty")
    return value


def _web_address(value: object) -> object:
    if value is None:
        return None
    parts = urlsplit(value) if isinstance(value, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a URL that begins with http:// or https://")
    return value


Port = Annotated[int | None, BeforeValidator(_port)]
Count = Annotated[int, BeforeValidator(_whole)]
Switch = Annotated[bool, BeforeValidator(_truth)]
Text = Annotated[str, BeforeValidator(_text)]
OwnDurationMs = Annotated[
    int | None, BeforeValidator(lambda value: None if value is None else parse_duration_ms(value)), DurationMark()
]
"""Or None: as another setting says."""
WebAddress = Annotated[str | None, BeforeValidator(_web_address)]
AddressText = Annotated[str | None, BeforeValidator(_address_text)]


def split_address(text: str) -> tuple[str, int | None]:
    """`HOST`, `HOST:PORT` or `[IPV6]:PORT` as (host, port or None). Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in host and not host.endswith("]")):
        return text, None
    if not host or not port.isdecimal() or not 0 < int(port) <= 65535:
        raise ValueError("HOST or HOST:PORT with a port from 1 to 65535")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """True if only this machine can reach `host`. A name other than localhost is taken for reachable."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Retry(_Section):
    """Back-off between the attempts of phase two: doubles from min to max, never ends."""

    min: DurationMs = Field(
        default=parse_duration_ms("1s"), description="pause after the first failed attempt of phase two"
    )
    max: DurationMs = Field(default=parse_duration_ms("1m"), description="longest pause between two attempts")


class Timeout(_Section):
    """How long a global transaction may stay open."""

    default: DurationMs = Field(default=parse_duration_ms("1m"), description="for a begin that asks for 0")
    max: DurationMs = Field(default=parse_duration_ms("30d"), description="a begin that asks for more is refused")


class Lock(_Section):
    """Row locks."""

    hot_wait: DurationMs = Field(
        default=parse_duration_ms("300ms"), description="how long a registration may queue for rows, over all its tries"
    )
    cold_wait: DurationMs = Field(
        default=parse_duration_ms("30s"), description="how long who holds no local row locks may queue for rows"
    )


class Lease(_Section):
    """Who leads, where several coordinators share a store."""

    ttl: DurationMs = Field(
        default=parse_duration_ms("10s"), description="a leader that has not renewed for so long may be replaced"
    )
    poll: DurationMs = Field(default=parse_duration_ms("500ms"), description="how often a standby asks for the lease")


class AnswerTimes(_Section):
    """Answers that others owe us, and we them."""

    timeout: DurationMs = Field(
        default=parse_duration_ms("15s"), description="a branch that has not answered is asked again"
    )
    first_round: DurationMs = Field(
        default=parse_duration_ms("10s"), description="longest a caller waits for the first phase-two round"
    )


class Outcomes(_Section):
    """How ended transactions are remembered, so that a repeated question hears the truth."""

    keep: DurationMs = Field(default=parse_duration_ms("1d"), description="how long the store keeps an outcome")
    memory: DurationMs = Field(default=parse_duration_ms("10m"), description="how long memory keeps it as well")
    memory_max: Count = Field(default=100_000, description="at most so many in memory")
    sweep: DurationMs = Field(default=parse_duration_ms("30s"), description="how often old outcomes are looked for")


class Dtm(_Section):
    """Transactions of DTM's doors; what a transaction says itself comes first."""

    timeout_to_fail: DurationMs = Field(
        default=parse_duration_ms("35s"), description="a DTM transaction that is only prepared is given up after this"
    )
    retry_interval: OwnDurationMs = Field(
        default=None, description="first pause between two attempts for a DTM transaction; as retry.min unless set"
    )
    request_timeout: DurationMs = Field(
        default=parse_duration_ms("3s"), description="a branch with a URL that has not answered is called again"
    )
    connections_per_host: Count = Field(
        default=128, description="connections to one service; more calls to it wait for one of them"
    )
    connections: Count = Field(default=10_000, description="open connections at DTM's HTTP port")
    request_bytes: SizeBytes = Field(default=parse_size_bytes("8MiB"), description="largest request at that port")
    alert_retry_limit: Count = Field(
        default=3, description="the web hook is called when the pause has doubled so often"
    )
    alert_web_hook: WebAddress = Field(default=None, description="URL that is told of transactions that do not get on")


class UndoLogs(_Section):
    """Old rows of the clients' undo_log tables, guard rows above all."""

    first_sweep: DurationMs = Field(
        default=parse_duration_ms("3m"), description="from the start to the first request to delete old undo logs"
    )
    sweep: DurationMs = Field(default=parse_duration_ms("1d"), description="from one such request to the next")
    save_days: Count = Field(default=7, le=32_767, description="undo logs younger than so many days are kept")


class Limits(_Section):
    """What one client may take. Over a limit the request or the connection is refused, nobody else is touched."""

    connections: Count = Field(default=10_000, description="open connections at the Seata port")
    unregistered_bytes: SizeBytes = Field(
        default=parse_size_bytes("256KiB"), description="what a connection may send before it has registered"
    )
    unregistered_timeout: DurationMs = Field(default=parse_duration_ms("15s"), description="time to register in")
    idle: DurationMs = Field(default=parse_duration_ms("15s"), description="a connection that sends nothing is closed")
    in_flight: Count = Field(default=10_000, description="unanswered requests of a connection; beyond, it is not read")
    unread_bytes: SizeBytes = Field(
        default=parse_size_bytes("64MiB"),
        description="what may wait for a client that does not read; then it is closed",
    )
    resources: Count = Field(default=100_000, description="resources that one connection may register")
    transactions: Count = Field(
        default=1_000_000, description="transactions that have not ended; beyond, begin is refused"
    )
    name_bytes: SizeBytes = Field(
        default=parse_size_bytes("32767B"), description="name of a transaction, of a resource"
    )
    application_data_bytes: SizeBytes = Field(
        default=parse_size_bytes("64000B"), description="applicationData of a branch"
    )


class Log(_Section):
    """What is logged, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least severe level that is shown"
    )
    format: Literal["auto", "console", "json"] = Field(
        default="auto", description="auto: console on a terminal, else json"
    )


class Config(_Section):
    """All settings of one coordinator."""

    host: Text = Field(default="127.0.0.1", description="address to listen at")
    port: Port = Field(default=8091, description="Seata port; 0: any free one; off: no such door")
    advertise: AddressText = Field(
        default=None, description="HOST or HOST:PORT by which clients reach us; part of every xid"
    )
    admin_host: Text | None = Field(default=None, description="address of the admin door; the same as host unless set")
    admin_port: Port = Field(default=7091, description="admin door: /health /metrics /api; 0: any free one; off: none")
    dtm_http_port: Port = Field(
        default=36789, description="DTM's HTTP port; 0: any free one; off: no such door. Taken, and not asked for: off"
    )
    dtm_grpc_port: Port = Field(
        default=36790,
        description="DTM's gRPC port (needs troth[grpc]); 0: any free one; off: none. Taken, and not asked for: off",
    )
    store: Text = Field(
        default="sqlite:///troth.db",
        description="where transactions are kept: sqlite:///FILE, memory:// or postgresql://USER:PASSWORD@HOST/DATABASE",
    )
    allow_anonymous: Switch = Field(default=False, description="listen beyond this machine although anybody may call")
    retry: Retry = Retry()
    timeout: Timeout = Timeout()
    lock: Lock = Lock()
    lease: Lease = Lease()
    answer: AnswerTimes = AnswerTimes()
    outcomes: Outcomes = Outcomes()
    undo_log: UndoLogs = UndoLogs()
    dtm: Dtm = Dtm()
    limits: Limits = Limits()
    log: Log = Log()

    @property
    def admin_address(self) -> str:
        """The host of the admin door."""
        return self.admin_host or self.host
