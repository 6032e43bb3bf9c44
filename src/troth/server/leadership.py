"""One process's part in leading a cell of a shared store: waiting for the lease, renewing it, and giving up in time.

What the lease is, and how it fences batches, is the store's business (`stores/store.py: SharedStore`). Here is when it
is asked for: at `lease.poll` while somebody else leads, at a third of `lease.ttl` while we do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from troth.server.logs import get_logger
from troth.stores.lease import Incumbent, Seconds, Tenure, boottime_s
from troth.stores.store import LeaseLost, SharedStore, StoreError, StoreUnreachable

log = get_logger("troth.leadership")

_TRY_AGAIN_S = 0.05


class StoreClock:
    """The store's clock at the election plus what the machine's has counted since, asleep or not: never back.

    All leaders of a cell read one clock, so no take-over makes a transaction older or younger.
    """

    def __init__(self, now_s: Seconds = boottime_s) -> None:
        self._now_s = now_s
        self._offset_ms = 0

    def start_at(self, store_ms: int) -> None:
        """The store's clock says `store_ms` now."""
        self._offset_ms = store_ms - int(self._now_s() * 1000)

    def not_before(self, floor_ms: int) -> None:
        self._offset_ms += max(0, floor_ms - self.now_ms())

    def now_ms(self) -> int:
        return self._offset_ms + int(self._now_s() * 1000)


class Leadership:
    """A candidate, later perhaps the leader. Everything runs on the loop; implements the engine's `Fence`."""

    def __init__(
        self, store: SharedStore, clock: StoreClock, *, poll_s: float, lost: Callable[[BaseException], None]
    ) -> None:
        """`lost` is called, once, when this process must step down."""
        self._store = store
        self._clock = clock
        self._poll_s = poll_s
        self._lost = lost
        self._renewal: asyncio.Task[None] | None = None
        self._incumbent: Incumbent | None = None
        self._trouble: str | None = None

    # ---- before ----

    async def stand_by(self, *, patient: bool) -> bool:
        """Reach the store and try once: True if this process leads now.

        A store that does not answer raises StoreUnreachable, unless we are `patient`, as a leader of before is.
        """
        try:
            await self._store.stand_by()
            return await self._try()
        except StoreUnreachable as error:
            if not patient:
                raise
            self._note(str(error))
            return False

    async def win(self) -> None:
        """Return when this process leads. Raises StoreError for a store that it must not use."""
        while not await self._tried_again():
            pass

    async def _tried_again(self) -> bool:
        await asyncio.sleep(self._poll_s)
        try:
            return await self._try()
        except StoreUnreachable as error:
            self._note(str(error))
            return False

    async def _try(self) -> bool:
        incumbent = await self._store.try_lead()
        self._trouble = None
        if incumbent is not None:
            if self._incumbent is None or self._incumbent.epoch != incumbent.epoch:
                log.info("standing by", leader=incumbent.holder, epoch=incumbent.epoch)
            self._incumbent = incumbent
            return False
        self._clock.start_at(await self._store.now_ms())
        self._incumbent = None
        tenure = self.tenure
        log.info("leading", epoch=tenure.epoch, store=self._store.url)
        self._renewal = asyncio.get_running_loop().create_task(self._keep_renewing(), name="lease-renewal")
        return True

    def _note(self, trouble: str) -> None:
        if trouble != self._trouble:
            log.warning("standing by, but the store cannot be used", reason=trouble)
        self._trouble = trouble

    # ---- meanwhile ----

    @property
    def tenure(self) -> Tenure:
        """Our turn. Raises LeaseLost if there is none."""
        tenure = self._store.tenure
        if tenure is None:
            raise LeaseLost("this process does not lead the cell")
        return tenure

    @property
    def leads(self) -> bool:
        """True while others must keep off."""
        tenure = self._store.tenure
        return tenure is not None and self._renewal is not None and tenure.left_s > 0

    @property
    def standing(self) -> str:
        """For operators: what this process waits for."""
        if self._trouble is not None:
            return f"standby: {self._trouble}"
        if self._incumbent is not None:
            return f"standby: {self._incumbent.holder} leads"
        return "standby: taking over"

    def leader(self) -> tuple[str, int]:
        """Who leads as far as we know, and the epoch."""
        if self._incumbent is not None:
            return self._incumbent.holder, self._incumbent.epoch
        tenure = self._store.tenure
        return ("", 0) if tenure is None else ("this process", tenure.epoch)

    @property
    def fresh(self) -> bool:
        """See `engine.Fence`."""
        tenure = self._store.tenure
        return tenure is not None and tenure.fresh

    async def confirm(self) -> None:
        """See `engine.Fence`. A renewal locks the row that every batch locks, and tells whether it is still ours."""
        while not self.fresh:
            await self._renew()

    async def _keep_renewing(self) -> None:
        try:
            while True:
                tenure = self.tenure
                await asyncio.sleep(min(tenure.ttl_s / 3, max(tenure.left_s - tenure.ttl_s / 2, 0.0)))
                await self._renew()
        except StoreError as error:
            self._lost(error)

    async def _renew(self) -> None:
        try:
            await self._store.renew()
        except StoreUnreachable as trouble:
            if self.tenure.left_s <= 0:
                raise LeaseLost(f"the lease has ended before it could be renewed: {trouble}") from trouble
            log.warning("the lease could not be renewed", left_s=round(self.tenure.left_s, 3), reason=str(trouble))
            await asyncio.sleep(_TRY_AGAIN_S)

    # ---- after ----

    async def stop(self) -> None:
        """Renew no more. The store gives the lease up when it is closed."""
        renewal, self._renewal = self._renewal, None
        if renewal is not None:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)
