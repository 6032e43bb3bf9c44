"""Steps that wait for each other, as a graph without cycles: which may run now. Threads and tasks are outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Ref:
    """Stands for the result of another node among the arguments of one; so it comes after that."""

    name: str


def names_in(value: Any) -> set[str]:
    """The nodes whose results `value` wants: a `Ref`, or lists, tuples and dicts of them."""
    if isinstance(value, Ref):
        return {value.name}
    if isinstance(value, (list, tuple)):
        return set().union(*map(names_in, value))
    if isinstance(value, dict):
        return set().union(*map(names_in, value.values()))
    return set()


def filled_in(value: Any, results: Mapping[str, Any]) -> Any:
    """`value` with the results in place of the `Ref`s."""
    if isinstance(value, Ref):
        return results[value.name]
    if isinstance(value, (list, tuple)):
        return type(value)(filled_in(one, results) for one in value)
    if isinstance(value, dict):
        return {key: filled_in(one, results) for key, one in value.items()}
    return value


def cycle_in(after: Mapping[str, frozenset[str]]) -> tuple[str, ...]:
    """The nodes of one ring, each waiting for the next; empty if there is none."""
    safe: set[str] = set()
    for start in after:
        path: list[str] = []
        ring = _walk(start, after, path, safe)
        if ring:
            return ring
    return ()


def _walk(name: str, after: Mapping[str, frozenset[str]], path: list[str], safe: set[str]) -> tuple[str, ...]:
    if name in path:
        return tuple(path[path.index(name) :])
    if name in safe:
        return ()
    path.append(name)
    for other in sorted(after.get(name, frozenset())):
        ring = _walk(other, after, path, safe)
        if ring:
            return ring
    path.pop()
    safe.add(name)
    return ()


class Order:
    """Which nodes may run, as others end. After a failure none begins any more."""

    def __init__(self, after: Mapping[str, frozenset[str]]) -> None:
        """Raises ValueError: a ring, or a name that is no node."""
        for name, others in after.items():
            unknown = sorted(others - after.keys())
            if unknown:
                raise ValueError(f"{name} comes after {', '.join(unknown)}, which is no node of this graph")
        ring = cycle_in(after)
        if ring:
            raise ValueError(f"a cycle: {' after '.join((*ring, ring[0]))}")
        self._waits = {name: set(others) for name, others in after.items()}

    def take_ready(self) -> list[str]:
        """Those that may begin now, in the order of the graph; they are taken."""
        ready = [name for name, others in self._waits.items() if not others]
        for name in ready:
            del self._waits[name]
        return ready

    def ended(self, name: str) -> None:
        """`name` has its result."""
        for others in self._waits.values():
            others.discard(name)

    def stop(self) -> None:
        """One has failed."""
        self._waits.clear()
