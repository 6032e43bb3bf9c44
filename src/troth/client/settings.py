"""What can be set on a client. All times are seconds (`_s`), so that tests can run at 50 ms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

DEFAULT_PORT = 8091


@dataclass(frozen=True, slots=True)
class Address:
    """Where a coordinator listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_addresses(coordinator: str | Iterable[str]) -> tuple[Address, ...]:
    """`"host:port"`, several of them comma separated, or a list of them. The port defaults to 8091.

    Raises:
        ValueError: an address is empty or its port is not a number from 1 to 65535.
    """
    texts = coordinator.split(",") if isinstance(coordinator, str) else list(coordinator)
    addresses = tuple(_parse_address(text.strip()) for text in texts if text.strip())
    if not addresses:
        raise ValueError("coordinator is empty: give it as 'host:port', for example '127.0.0.1:8091'")
    return addresses


def _parse_address(text: str) -> Address:
    if "://" in text:
        raise ValueError(f"{text!r} is a URL: give the coordinator's Seata port as 'host:port', like '127.0.0.1:8091'")
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(DEFAULT_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is not a coordinator's address: give it as 'host:port', like '127.0.0.1:8091'")
    return Address(host, int(port))


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Every knob of a client; the defaults follow Seata's Java client (PROTOCOL §4).

    `init(...)` takes each of them as a keyword.
    """

    connect_timeout_s: float = 5.0
    """How long one attempt to connect and register may take, and how long `init` keeps trying in all."""
    connect_at_init: bool = True
    """False: `init` returns at once and the first request waits for the link."""
    link_wait_s: float = 3.0
    """How long a request that was never sent waits for the link to come (back)."""
    tm_timeout_s: float = 30.0
    """How long begin, commit, rollback, status and vote wait for an answer."""
    rm_timeout_s: float = 15.0
    """How long branch register, branch report and lock query wait for an answer."""
    heartbeat_s: float = 5.0
    """A ping is sent after so long without a write (or a read)."""
    idle_timeout_s: float = 15.0
    """The connection is dropped after so long without a read."""
    reconnect_min_s: float = 0.1
    """Back-off after the first failed attempt; it doubles from there. The first attempt is made at once."""
    reconnect_max_s: float = 5.0
    """Longest back-off between two attempts to connect."""
    begin_retry_timeout_s: float = 10.0
    """How long a begin is repeated when its answer is lost. An orphan that this leaves ends by its timeout."""
    commit_retry_timeout_s: float = 30.0
    """How long a commit is asked again when its answer is lost; then `OutcomeUnknown` is raised."""
    rollback_retry_timeout_s: float = 5.0
    """How long a rollback is asked again; after that the coordinator's timeout does it."""
    retry_pause_s: float = 0.1
    """Pause between two of these repetitions."""
    phase_two_queue: int = 10_000
    """How many phase-two requests may wait per resource; more are answered "later" (Retryable)."""
    phase_two_batch: int = 500
    """How many branch commits are handed to a resource at once."""
    phase_two_wait_s: float = 2.0
    """How long `close` (also at the program's end) waits for phase two of the transactions this process has ended."""
    close_wait_s: float = 5.0
    """How long `close` waits for phase-two work that has already arrived."""
    unsent_limit: int = 100_000
    """How many requests may wait for the link."""
    lock_retry_interval_s: float = 0.01
    """AT: pause between two tries for a row lock (Seata's `client.rm.lock.retryInterval`)."""
    lock_retry_times: int = 30
    """AT: how often a row lock is tried (Seata's `client.rm.lock.retryTimes`)."""
    lock_wait_timeout_s: float = 300.0
    """AT: longest wait for the answer to a cold wait. The coordinator ends it before, by its `lock.cold_wait`."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, bool) and value <= 0:
                raise ValueError(f"{field.name} must be greater than 0, not {value!r}")
        if self.idle_timeout_s <= self.heartbeat_s:
            raise ValueError(
                f"idle_timeout_s ({self.idle_timeout_s}) must be longer than heartbeat_s ({self.heartbeat_s}), "
                "or a quiet connection is dropped before its first ping"
            )
        if self.reconnect_max_s < self.reconnect_min_s:
            raise ValueError("reconnect_max_s must not be less than reconnect_min_s")

    @property
    def lock_retry_timeout_s(self) -> float:
        """How long a row lock is tried in all."""
        return self.lock_retry_interval_s * self.lock_retry_times
