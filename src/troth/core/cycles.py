"""Rings of transactions in which each waits for the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator


def find_ring(start: str, waits_for: Callable[[str], Iterable[str]]) -> list[str] | None:
    """The transactions of a ring that begins with `start`, in the order of waiting; None if there is none.

    Each transaction is looked at once, so this is linear in what is waited for.
    """
    path = [start]
    steps: list[Iterator[str]] = [iter(waits_for(start))]
    seen = {start}
    while steps:
        following = next(steps[-1], None)
        if following is None:
            steps.pop()
            path.pop()
        elif following == start:
            return path
        elif following not in seen:
            seen.add(following)
            path.append(following)
            steps.append(iter(waits_for(following)))
    return None
