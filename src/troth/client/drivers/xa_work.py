"""XA on PostgreSQL: what the sync, the asyncio and the asyncpg connection share."""

from __future__ import annotations

import re
from typing import Any

from troth.client.context import current_xid
from troth.client.drivers.psycopg_place import PostgresUrl
from troth.client.drivers.xa_resource import XaServed, postgres_resource
from troth.client.errors import NotSupported
from troth.client.flow import ResourceClient
from troth.client.modes.xa_postgres import PostgresPhaseOne, check_settings

SHOW_SETTING = "SHOW max_prepared_transactions"
_ENDS = re.compile(
    r"(?:\s|/\*.*?\*/|--[^\n]*\n)*(?P<verb>COMMIT|END|ABORT|PREPARE\s+TRANSACTION|ROLLBACK(?!\s+TO\b|\s+\w+\s+TO\b))\b",
    re.IGNORECASE | re.DOTALL,
)


class XaWork:
    """XA on one connection."""

    def __init__(self, url: PostgresUrl, resource_id: str, client: ResourceClient | None) -> None:
        self.phase_one = PostgresPhaseOne(resource_id)
        self.served = XaServed(resource_id, postgres_resource(url), client)

    @property
    def concerns(self) -> bool:
        """Whether XA has to look at a call now."""
        return current_xid() is not None or self.phase_one.xid is not None

    def refuse_inside(self, what: str, hint: str) -> None:
        """Raises NotSupported inside a global transaction, or where a local one still belongs to one."""
        if self.concerns:
            raise NotSupported(f"{what} would go past XA.", hint)

    def enter(self, text: Any) -> None:
        """A statement is about to run inside.

        Raises:
            NotSupported: it would end the local transaction past XA, or that belongs to another global transaction.
        """
        found = _ENDS.match(text) if isinstance(text, str) else None
        if found is not None:
            raise NotSupported(
                f"{found['verb'].upper()} as a text would end the branch past XA.", "Call commit(), rollback()."
            )
        self.phase_one.enter(current_xid())
        self.served.register()

    def abandon(self, xid: str) -> bool:
        """Note that what is open for `xid` can never be committed; whether there is such a thing."""
        if self.phase_one.xid == xid:
            self.phase_one.abandoned = True
        return self.phase_one.abandoned


def check_server(max_prepared_transactions: object) -> None:
    """Raises NotSupported where the server keeps no prepared transactions; the text has the fix."""
    problem = check_settings(str(max_prepared_transactions))
    if problem is not None:
        raise NotSupported(problem)
