"""Transactions that are written down and submitted, and then run by the coordinator: sagas and messages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Final

from troth.client.drivers.barrier import Keeping
from troth.client.dtm_speaker import Speaker
from troth.client.flow import Flow
from troth.client.modes.dtm import Kind, Options, Transaction, payload_text, prepare, submit
from troth.client.modes.dtm_message import done_and_submitted

log = logging.getLogger("troth.dtm")

_TOPIC: Final = "topic://"


class Saga:
    """Steps that the coordinator runs in order; if one refuses, those that ran are compensated in reverse.

    Args:
        concurrent: all steps run side by side, but for those that name others in `after`.
    """

    def __init__(self, speaker: Speaker, gid: str, options: Options, *, concurrent: bool) -> None:
        self.gid = gid
        self._speaker = speaker
        self._transaction = Transaction(gid, Kind.SAGA, options)
        self._concurrent = concurrent
        self._orders: dict[str, list[int]] = {}

    def add(self, action: str, compensate: str = "", payload: object = None, *, after: Iterable[int] = ()) -> int:
        """A step; its number, for `after` of later ones.

        Args:
            action: URL that does it. 200 means done, 409 refused, 425 not yet; anything else is tried again.
            compensate: URL that undoes it; "" means there is nothing to undo.
            payload: what both get as their body: JSON of it, or bytes as they are. None: a GET without a body.
            after: a concurrent saga's step waits for these.

        Raises:
            ValueError: `after` names a step that is not there yet, or the saga is not concurrent.
        """
        number, before = len(self._transaction.steps), sorted(set(after))
        if before and not self._concurrent:
            raise ValueError("the steps of this saga run in their order: give after= in a saga(concurrent=True)")
        if any(not 0 <= other < number for other in before):
            raise ValueError(f"step {number} is to wait for {before}, and the steps before it are 0 to {number - 1}")
        self._transaction.steps.append({"action": action, "compensate": compensate})
        self._transaction.payloads.append(payload_text(payload))
        if before:
            self._orders[str(number)] = before
        return number

    def submit(self, *, wait: bool = False) -> Any:
        """Hand it to the coordinator. With the same gid it may be done again, after a lost answer.

        Raises:
            TransactionRolledBack, Ongoing: with `wait` only: how it stands.
            OutcomeUnknown: no answer came; it may have begun.
            CoordinatorRefused: it makes no sense to the coordinator.
        """
        if self._concurrent:
            self._transaction.custom = {"concurrent": True, "orders": self._orders}
            self._transaction.extra = {"concurrent": True}
        return self._speaker.do(submit(self._speaker.link, self._transaction, wait=wait))


class Message:
    """A message that is delivered until each of its receivers has taken it, if and only if it is submitted."""

    def __init__(self, speaker: Speaker, gid: str, options: Options, *, concurrent: bool) -> None:
        self.gid = gid
        self._speaker = speaker
        self._transaction = Transaction(gid, Kind.MESSAGE, options)
        if concurrent:
            self._transaction.extra = {"concurrent": True}

    def add(self, url: str, payload: object = None) -> Message:
        """A receiver; the order of these calls is the order of delivery."""
        self._transaction.steps.append({"action": url})
        self._transaction.payloads.append(payload_text(payload))
        return self

    def add_topic(self, topic: str, payload: object = None) -> Message:
        """All that have subscribed to `topic` at the coordinator when the message is prepared or submitted."""
        return self.add(_TOPIC + topic, payload)

    def delay(self, time: timedelta) -> Message:
        """Deliver so long after the submit. Raises ValueError: no whole seconds."""
        if time % timedelta(seconds=1) or time < timedelta(0):
            raise ValueError(f"the delay is {time}, and DTM's protocol has whole seconds")
        self._transaction.custom = {"delay": time // timedelta(seconds=1)}
        return self

    def prepare(self, check_back: str) -> Any:
        """The half message: kept, not delivered. If no submit comes, the coordinator asks at the URL `check_back`."""
        return self._speaker.do(prepare(self._speaker.link, self._transaction, query_prepared=check_back))

    def submit(self, *, wait: bool = False) -> Any:
        """Deliver it. Raises as `Saga.submit`."""
        return self._speaker.do(submit(self._speaker.link, self._transaction, wait=wait))

    def do(
        self, check_back: str, connection: Any, work: Callable[[Any], Any], *, keeping: Keeping | None = None
    ) -> Any:
        """`work(connection)` in one local transaction; the message is delivered if and only if that commits.

        If this process dies in between, the coordinator asks at `check_back`, and the barrier's row has the answer:
        `troth.integrations.dtm_asgi` and `dtm_wsgi` serve that URL. A call with the gid of an earlier one that had
        committed does not do the work again, submits, and gives None.

        Args:
            check_back: the URL of this service's check-back.
            connection: a connection, a URL, or a callable that gives one, of the database that the check-back asks.
            work: does the business on the connection, and leaves commit and rollback to this.
            keeping: where the barrier's row goes, if not where DTM has it.

        Raises:
            CoordinatorUnavailable, CoordinatorRefused: at the half message; nothing was done.
            LateTry: the coordinator asked back before the work was done; it was not done.
            OutcomeUnknown: COMMIT failed, and the database does not say whether it counted; the coordinator asks it.
            Exception: of `work` or the database: rolled back, and the message is dropped.
        """
        door = self._speaker.door(connection, keeping or Keeping())
        return self._speaker.do(self._told(check_back, door, work), door)

    def _told(self, check_back: str, door: Any, work: Callable[[Any], Any]) -> Flow[Any]:
        done = done_and_submitted(self._speaker.link, self._transaction, check_back, door, work)
        result, lost = yield from done
        if lost is not None:
            log.warning("message %s is committed; the coordinator will hear it when it asks back: %s", self.gid, lost)
        return result
