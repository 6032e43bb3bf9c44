"""What all processes of the bank agree on. Times are short, so that a fault of a second is a long one."""

from __future__ import annotations

from datetime import timedelta
from types import MappingProxyType
from typing import Any

BANKS = ("lite", "post", "maria")
ACCOUNTS = 60
AT_START = 1000
TRANSACTION_TIMEOUT = timedelta(seconds=4)

CLIENT: MappingProxyType[str, Any] = MappingProxyType(
    {
        "connect_at_init": False,
        "connect_timeout_s": 1.0,
        "link_wait_s": 1.0,
        "tm_timeout_s": 1.5,
        "rm_timeout_s": 1.5,
        "heartbeat_s": 0.3,
        "idle_timeout_s": 1.2,
        "reconnect_min_s": 0.05,
        "reconnect_max_s": 0.2,
        "begin_retry_timeout_s": 2.0,
        "commit_retry_timeout_s": 8.0,
        "rollback_retry_timeout_s": 1.0,
    }
)
