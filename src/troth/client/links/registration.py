"""What a client says about itself when a connection opens (PROTOCOL §4)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from troth.wire.seata.lock_wait import ANNOUNCEMENT as LOCK_WAITS
from troth.wire.seata.messages import RegisterRMRequest, RegisterTMRequest
from troth.wire.seata.private import ANNOUNCEMENT as INQUIRIES
from troth.wire.seata.saga import ANNOUNCEMENT as SAGAS

SPOKEN_VERSION = "2.3.0"
"""The Seata version whose behaviour this client follows: a coordinator picks features by it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which program this is."""

    application: str
    group: str

    def as_tm(self, local_ip: str, timestamp_ms: int) -> RegisterTMRequest:
        """The TM's registration, without a secret: the digest is then the plain text (PROTOCOL §4.2)."""
        lines = (
            "ak=null",
            f"digest={self.group},{local_ip},{timestamp_ms}",
            f"timestamp={timestamp_ms}",
            "authVersion=V4",
            f"vgroup={self.group}",
            f"ip={local_ip}",
        )
        return RegisterTMRequest(
            version=SPOKEN_VERSION,
            application_id=self.application,
            transaction_service_group=self.group,
            extra_data="".join(f"{line}\n" for line in lines),
        )

    def as_rm(self, resource_ids: Iterable[str]) -> RegisterRMRequest:
        """The RM's registration for `resource_ids`."""
        return RegisterRMRequest(
            version=SPOKEN_VERSION,
            application_id=self.application,
            transaction_service_group=self.group,
            extra_data=f"{INQUIRIES}\n{LOCK_WAITS}\n{SAGAS}\n",  # a Seata server does not look at it
            resource_ids=",".join(resource_ids),
        )
