"""DTM's style: branches are URLs, over HTTP, at troth's coordinator or DTM's own; and DTM's barrier for any service.

```python
client = troth.dtm.connect("http://127.0.0.1:36789")         # connect_async: the same, awaited

saga = client.saga()
saga.add("http://bank-a/withdraw", "http://bank-a/withdraw-undo", {"amount": 30})
saga.add("http://bank-b/deposit", "http://bank-b/deposit-undo", {"amount": 30})
saga.submit(wait=True)

@troth.dtm.barrier("postgresql://bank@db/bank")              # in the services: each call is done once
def withdraw(connection, amount): ...
```
Needs `pip install 'troth[httpx]'` to call a coordinator; the barrier needs nothing but your database's driver.
"""

from __future__ import annotations

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from troth.client.barrier import Barrier, acheck_back, barrier, check_back, current_barrier, join, message_barrier
    from troth.client.drivers.barrier import Keeping
    from troth.client.dtm import DtmClient, connect, connect_async
    from troth.client.dtm_speaker import new_gid
    from troth.client.dtm_submitted import Message, Saga
    from troth.client.dtm_tcc import Tcc, Xa
    from troth.client.dtm_workflow import Steps, Workflow
    from troth.client.modes.barrier import AlreadyDone
    from troth.client.modes.dtm import Options
    from troth.client.modes.dtm_answers import BranchRefused, BranchUnanswered, Ongoing, answer_to
    from troth.client.modes.fence import LateTry

_MODULE_OF: Final = MappingProxyType(
    {
        **dict.fromkeys(
            ("Barrier", "acheck_back", "barrier", "check_back", "current_barrier", "join", "message_barrier"),
            "troth.client.barrier",
        ),
        **dict.fromkeys(("DtmClient", "connect", "connect_async"), "troth.client.dtm"),
        **dict.fromkeys(
            ("BranchRefused", "BranchUnanswered", "Ongoing", "answer_to"), "troth.client.modes.dtm_answers"
        ),
        "AlreadyDone": "troth.client.modes.barrier",
        "Keeping": "troth.client.drivers.barrier",
        "LateTry": "troth.client.modes.fence",
        **dict.fromkeys(("Message", "Saga"), "troth.client.dtm_submitted"),
        **dict.fromkeys(("Tcc", "Xa"), "troth.client.dtm_tcc"),
        **dict.fromkeys(("Steps", "Workflow"), "troth.client.dtm_workflow"),
        "Options": "troth.client.modes.dtm",
        "new_gid": "troth.client.dtm_speaker",
    }
)

__all__ = [
    "AlreadyDone",
    "Barrier",
    "BranchRefused",
    "BranchUnanswered",
    "DtmClient",
    "Keeping",
    "LateTry",
    "Message",
    "Ongoing",
    "Options",
    "Saga",
    "Steps",
    "Tcc",
    "Workflow",
    "Xa",
    "acheck_back",
    "answer_to",
    "barrier",
    "check_back",
    "connect",
    "connect_async",
    "current_barrier",
    "join",
    "message_barrier",
    "new_gid",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'troth.dtm' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value  # found without this function from now on
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
