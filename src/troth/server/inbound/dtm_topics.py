"""Topics: named lists of subscribers, kept in the store; each change by compare-and-set on the list's version."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from troth.server.outbound.http import target_of
from troth.stores.store import KeyValue, Store
from troth.wire.dtm.results import BadInput, NotFound
from troth.wire.dtm.views import KvPageView, KvView, Subscriber, rfc3339

TOPICS = "topics"
LONGEST_NAME = 255
LONGEST_URL = 8192
MOST_SUBSCRIBERS = 1000
_TRIES = 100
"""Of a change that others get in before: each try that loses means that another one has won."""


class Topics:
    """Reads and changes go to the store: a deleted topic is gone at once, and a new one is there."""

    def __init__(self, store: Store, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms

    async def subscribe(self, topic: str, url: str, remark: str) -> None:
        """Add a subscriber; the topic comes into being with its first. Raises BadInput."""
        _check_name("topic", topic)
        _check_url(url)
        if len(remark) > LONGEST_URL or not _printable(remark):
            raise BadInput(f"remark: at most {LONGEST_URL} characters, none of them a control character")

        def add(subscribers: list[Subscriber]) -> None:
            if any(one.url == url for one in subscribers):
                raise BadInput(f"{url!r} has subscribed to {topic!r} already")
            if len(subscribers) >= MOST_SUBSCRIBERS:
                raise BadInput(f"{topic!r} has {MOST_SUBSCRIBERS} subscribers, which is the limit")
            subscribers.append(Subscriber(url, remark))

        await self._change(topic, add)

    async def unsubscribe(self, topic: str, url: str) -> None:
        """Take a subscriber away. Raises NotFound."""
        _check_name("topic", topic)

        def remove(subscribers: list[Subscriber]) -> None:
            left = [one for one in subscribers if one.url != url]
            if len(left) == len(subscribers):
                raise NotFound(f"{url!r} has not subscribed to {topic!r}")
            subscribers[:] = left

        await self._change(topic, remove)

    async def delete(self, topic: str) -> None:
        """Raises NotFound."""
        _check_name("topic", topic)
        if not await self._store.kv_delete(TOPICS, topic):
            raise NotFound(f"no topic {topic!r}")

    async def subscribers(self, topic: str) -> Sequence[Subscriber]:
        """At least one. Raises NotFound."""
        _check_name("topic", topic)
        kept = await self._store.kv_get(TOPICS, topic)
        found = _decode(kept)
        if not found:
            raise NotFound(f"topic not found: {topic!r} has no subscribers")
        return found

    # ---- any kept value ----

    async def query(self, cat: str, key: str) -> KvPageView:
        """The value of `key`, if there is one."""
        _check_name("cat", cat)
        _check_name("key", key)
        kept = await self._store.kv_get(cat, key)
        return KvPageView([] if kept is None else [_view(kept)])

    async def scan(self, cat: str, position: str, limit: int) -> KvPageView:
        """Those after `position`, oldest first."""
        _check_name("cat", cat)
        if position and not (position.isascii() and position.isdecimal() and len(position) < 19):
            raise BadInput(f"position is what an earlier page gave, not {position!r}")
        found = await self._store.kv_scan(cat, int(position or 0), limit)
        more = len(found) == limit
        return KvPageView([_view(kept) for kept in found], str(found[-1].id) if more else "")

    async def _change(self, topic: str, change: Callable[[list[Subscriber]], None]) -> None:
        for _ in range(_TRIES):
            kept = await self._store.kv_get(TOPICS, topic)
            subscribers = _decode(kept)
            change(subscribers)
            text = msgspec.json.encode(subscribers).decode()
            version = None if kept is None else kept.version
            if await self._store.kv_put(TOPICS, topic, text, version, self._now_ms()):
                return
        raise BadInput(f"topic {topic!r} is changed by others all the time; try again")


def _decode(kept: KeyValue | None) -> list[Subscriber]:
    return [] if kept is None else msgspec.json.decode(kept.v, type=list[Subscriber])


def _view(kept: KeyValue) -> KvView:
    return KvView(kept.id, rfc3339(kept.create_ms), rfc3339(kept.update_ms), kept.cat, kept.k, kept.v, kept.version)


def _printable(text: str) -> bool:
    """It can be stored anywhere, and shown in a log."""
    return not text or text.isprintable()


def _check_name(what: str, name: str) -> None:
    if not name or len(name) > LONGEST_NAME or not _printable(name):
        raise BadInput(f"{what}: from 1 to {LONGEST_NAME} characters, none of them a control character")


def _check_url(url: str) -> None:
    """As the URL of a step; one without http:// is that of a gRPC method."""
    if not url or len(url) > LONGEST_URL or not _printable(url):
        raise BadInput(f"url: from 1 to {LONGEST_URL} characters, none of them a control character")
    if "://" not in url and "/" in url:
        return
    try:
        target_of(url)
    except ValueError as error:
        raise BadInput(f"url: {url!r}: expected {error}") from None
