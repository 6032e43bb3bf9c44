"""Ratios of two contenders, each taken from runs of the same round: their median is compared, never two medians."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from figures import Measurement, Shape


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median, lowest and highest of the pairs' ratios, and how many pairs there were."""

    median: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.low)}–{_short(self.high)})"


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 9.95 else f"{value:.0f}"


def ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """Of values that belong together by their place. Raises ValueError if they do not, or there are none."""
    each = [one / other for one, other in zip(above, below, strict=True)]
    if not each:
        raise ValueError("no pairs")
    return Ratio(statistics.median(each), min(each), max(each), len(each))


def of(measurements: Iterable[Measurement], server: str, shape: Shape) -> list[Measurement]:
    """One contender's runs of one shape, in the order of their rounds."""
    found = [run for run in measurements if run.server == server and run.shape == shape]
    return sorted(found, key=lambda run: run.round)


def paired(measurements: Sequence[Measurement], one: str, other: str, shape: Shape, field: str) -> Ratio:
    """`field` of `one` divided by that of `other`, round by round."""
    above, below = of(measurements, one, shape), of(measurements, other, shape)
    if [run.round for run in above] != [run.round for run in below]:
        raise ValueError(f"{one} and {other} at {shape} were not measured in the same rounds")
    return ratio([getattr(run, field) for run in above], [getattr(run, field) for run in below])
