"""SQLAlchemy on AT: a sync engine whose connections are AT's.

```python
engine = troth.integrations.sqlalchemy.create_engine("sqlite:////var/lib/shop/stock.db")
with troth.transaction(name="purchase"), Session(engine) as session, session.begin():
    …
```
The engine is SQLAlchemy's own; each `commit` of a connection inside a global transaction is a branch of it. Errors of
AT (`LockConflict`, `NotSupported` …) come through as they are, not wrapped in SQLAlchemy's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

try:
    import sqlalchemy
except ImportError as error:
    raise ImportError("troth's SQLAlchemy engine needs SQLAlchemy: pip install 'troth[sqlalchemy]'") from error

from troth import at
from troth.client.flow import ResourceClient


def create_engine(
    url: str | sqlalchemy.URL,
    *,
    client: ResourceClient | None = None,
    connect_args: Mapping[str, Any] | None = None,
    **options: Any,
) -> sqlalchemy.Engine:
    """`sqlalchemy.create_engine(url, **options)` on connections under AT.

    Args:
        url: `sqlite:///relative` or `sqlite:////absolute`.
        client: the client to use; None means the process's default one (`troth.init`).
        connect_args: as `sqlite3.connect` takes them.
        **options: as `sqlalchemy.create_engine` takes them, except `creator`.

    Raises:
        NotSupported: a database that AT cannot work on; the hint says what to do.
    """
    text = url if isinstance(url, str) else url.render_as_string(hide_password=False)
    return sqlalchemy.create_engine(url, creator=at_creator(text, client=client, **(connect_args or {})), **options)


def at_creator(url: str, *, client: ResourceClient | None = None, **connect_args: Any) -> Callable[[], Any]:
    """What `sqlalchemy.create_engine(url, creator=…)` takes, for engines that are built in another way.

    As in SQLAlchemy's own dialect, a pooled connection may go from thread to thread.
    """
    arguments = {"check_same_thread": False, **connect_args}

    def creator() -> at.Connection:
        return at.connect(url, client=client, **arguments)

    return creator
