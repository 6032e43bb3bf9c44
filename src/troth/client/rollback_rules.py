"""Which exceptions roll a global transaction back: the most specific rule wins, as in Seata and Spring."""

from __future__ import annotations

from dataclasses import dataclass

Kinds = tuple[type[BaseException], ...]


@dataclass(frozen=True, slots=True)
class RollbackRules:
    """`rollback_for` and `no_rollback_for` of one scope.

    Of all classes that an exception is an instance of, the one nearest to its own class decides; if both lists name
    that one, it is rolled back. An exception that no rule names rolls back.
    """

    rollback_for: Kinds = ()
    no_rollback_for: Kinds = ()

    def __post_init__(self) -> None:
        _check(self.rollback_for)
        _check(self.no_rollback_for)

    def rolls_back(self, error: BaseException) -> bool:
        """Whether `error`, which leaves the scope, rolls the transaction back."""
        spares = _distance(error, self.no_rollback_for)
        if spares is None:
            return True
        demands = _distance(error, self.rollback_for)
        return demands is not None and demands <= spares


def _distance(error: BaseException, kinds: Kinds) -> int | None:
    """How far the nearest of `kinds` is from the error's own class; None: it is an instance of none."""
    line = type(error).__mro__
    return min((line.index(kind) for kind in kinds if kind in line), default=None)


def _check(kinds: object) -> None:
    """A list or a single class would otherwise fail, or fit nothing, at the first error only."""
    if not isinstance(kinds, tuple) or not all(isinstance(kind, type) for kind in kinds):
        raise TypeError(f"rollback_for and no_rollback_for are tuples of exception classes, not {kinds!r}")
