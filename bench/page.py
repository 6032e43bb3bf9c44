"""The parts of docs/benchmarks.md that a run writes: tables, pictures, and what is reached of what was aimed at."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from at_cost import ROUND_TRIP_MS, Cost
from beside_seata import BUSY, DB, FILE, FILE_AS_SHIPPED, SHAPES, TITLES, TROTH
from figures import Measurement, Shape, as_markdown, rows, spread, write_into
from java_load import LOAD
from pairs import Ratio, of, paired
from svg import Bar, Group, bar_chart

PICTURES: Final = "benchmarks"
PEERS: Final = (FILE, FILE_AS_SHIPPED, DB)
SHORT: Final = MappingProxyType(
    {TROTH: "troth", FILE: "Seata file", FILE_AS_SHIPPED: "Seata file, its log on", DB: "Seata DB"}
)


@dataclass(frozen=True, slots=True)
class Section:
    """What stands between two marks of the page, and the pictures that it shows, by file name."""

    name: str
    text: str
    pictures: Mapping[str, str]

    def write(self, page: Path) -> None:
        """Write both. Raises ValueError when the page has no such marks."""
        folder = page.parent / PICTURES
        folder.mkdir(exist_ok=True)
        write_into(page, self.text, self.name)
        for name, picture in self.pictures.items():
            (folder / name).write_text(picture, encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Aim:
    """A ratio that this project wants to reach: `first`, and later `then`. `at_most`: smaller is better."""

    what: str
    peer: str
    shape: Shape
    field: str
    first: float | None
    then: float
    at_most: bool = False

    def reached(self, value: float, bound: float) -> bool:
        return value <= bound if self.at_most else value >= bound


AIMS: Final = (
    Aim("answered, beside the file store", FILE, BUSY, "tx_per_s", 2.5, 4.0),
    Aim("phase two counted, beside the file store", FILE, BUSY, "whole_per_s", 4.0, 8.0),
    Aim("answered, beside the DB store", DB, BUSY, "tx_per_s", 25.0, 40.0),
    Aim("p99, of the file store's", FILE, BUSY, "p99_ms", None, 1 / 3, at_most=True),
    Aim("answered, beside the file store", FILE, Shape(64, 1), "tx_per_s", None, 2.0),
    Aim("answered, beside the file store", FILE, Shape(1, 1), "tx_per_s", None, 0.7),
    Aim("answered, beside the file store, its log on", FILE_AS_SHIPPED, BUSY, "tx_per_s", 2.5, 4.0),
    Aim("phase two counted, beside the file store, its log on", FILE_AS_SHIPPED, BUSY, "whole_per_s", 4.0, 8.0),
)
JAVA_AIM: Final = 3.0


def alone(measurements: Sequence[Measurement], facts: Mapping[str, str]) -> Section:
    """troth at each shape."""
    return Section("figures", as_markdown(rows(measurements), facts), {})


def beside(measurements: Sequence[Measurement], facts: Mapping[str, str]) -> Section:
    """troth and Seata: each shape and server, then the aims, then the conditions."""
    heads = ("tx/s", "p50 ms", "p99 ms", "tx/s, phase two counted")
    lines: list[Sequence[str]] = [("connections × in flight", "server", *heads, "answered", "whole"), ("---",) * 8]
    for shape in SHAPES:
        for name in (TROTH, *PEERS):
            runs = of(measurements, name, shape)
            if runs:
                lines.append((str(shape), TITLES[name], *_figures(runs), *_ratios(measurements, name, shape)))
    shapes = [shape for shape in SHAPES if of(measurements, FILE, shape)]
    pictures = {
        "answered.svg": _picture(measurements, shapes, "Commits answered a second", "tx_per_s"),
        "whole.svg": _picture(measurements, shapes, "Transactions a second, phase two counted", "whole_per_s"),
    }
    parts = [
        *(f"![{name.removesuffix('.svg')}]({PICTURES}/{name})" for name in pictures),
        _table(lines),
        "**Aims**, as the median of the pairs' ratios (lowest–highest pair):",
        _table(_aims(measurements)),
        _conditions(facts),
    ]
    return Section("seata", "\n\n".join(parts), pictures)


def java(measurements: Sequence[Measurement], facts: Mapping[str, str]) -> Section:
    """Seata's Java client against both."""
    lines: list[Sequence[str]] = [("server", "tx/s", "p50 ms", "p99 ms", "tx/s, phase two counted"), ("---",) * 5]
    bars = []
    for number, name in enumerate((TROTH, FILE)):
        runs = of(measurements, name, LOAD)
        lines.append((TITLES[name], *_figures(runs)))
        bars.append(_bar(SHORT[name], number, [run.tx_per_s for run in runs]))
    answered = paired(measurements, TROTH, FILE, LOAD, "tx_per_s")
    whole = paired(measurements, TROTH, FILE, LOAD, "whole_per_s")
    p99 = paired(measurements, TROTH, FILE, LOAD, "p99_ms")
    said = (
        f"troth / Seata, {answered.pairs} pairs: answered {answered}, phase two counted {whole}, p99 {p99}. "
        f"Aim: answered ≥ {JAVA_AIM:g}: {_reached(answered.median >= JAVA_AIM)}."
    )
    title = f"Commits answered a second, Seata's Java client, {LOAD.in_flight} threads"
    pictures = {"java.svg": bar_chart(title, "tx/s", [Group("", tuple(bars))])}
    text = "\n\n".join((f"![java]({PICTURES}/java.svg)", _table(lines), said, _conditions(facts)))
    return Section("java", text, pictures)


def at(costs: Sequence[Cost], facts: Mapping[str, str]) -> Section:
    """AT over a plain local transaction."""
    lines = [("database", "plain, ms", "under AT, ms", "AT / plain", "outside of a global transaction / plain")]
    lines.append(("---",) * 5)
    groups = []
    for cost in costs:
        lines.append((cost.name, f"{cost.ms['plain']:.3f}", f"{cost.ms['at']:.3f}", str(cost.at), str(cost.outside)))
        bars = [
            Bar(way, number, each.median, each.low, each.high, f"{each.median:.2f}")
            for number, (way, each) in enumerate((("AT", cost.at), ("outside", cost.outside)))
        ]
        groups.append(Group(_broken(cost.name), tuple(bars)))
    title = "One UPDATE by key and COMMIT: how many times a plain local transaction"
    pictures = {"at.svg": bar_chart(title, "× plain", groups)}
    text = "\n\n".join((f"![at]({PICTURES}/at.svg)", _table(lines), _conditions(facts)))
    return Section("at", text, pictures)


def _figures(runs: Sequence[Measurement]) -> tuple[str, ...]:
    return (
        spread([run.tx_per_s for run in runs], 0),
        spread([run.p50_ms for run in runs], 2),
        spread([run.p99_ms for run in runs], 2),
        spread([run.whole_per_s for run in runs], 0),
    )


def _ratios(measurements: Sequence[Measurement], peer: str, shape: Shape) -> tuple[str, str]:
    if peer == TROTH:
        return "", ""
    answered = paired(measurements, TROTH, peer, shape, "tx_per_s")
    whole = paired(measurements, TROTH, peer, shape, "whole_per_s")
    return f"× {answered}", f"× {whole}"


def _aims(measurements: Sequence[Measurement]) -> list[Sequence[str]]:
    lines: list[Sequence[str]] = [("troth / Seata", "at", "aim", "measured", ""), ("---",) * 5]
    for aim in AIMS:
        if not of(measurements, aim.peer, aim.shape):
            continue
        found = paired(measurements, TROTH, aim.peer, aim.shape, aim.field)
        sign = "≤" if aim.at_most else "≥"
        bounds = [bound for bound in (aim.first, aim.then) if bound is not None]
        wanted = ", then ".join(f"{sign} {bound:.2g}" for bound in bounds)
        lines.append((aim.what, str(aim.shape), wanted, str(found), _verdict(aim, found, bounds)))
    return lines


def _verdict(aim: Aim, found: Ratio, bounds: Sequence[float]) -> str:
    reached = [aim.reached(found.median, bound) for bound in bounds]
    if all(reached):
        return _reached(True)
    return "the first is reached" if reached[0] else _reached(False)


def _reached(is_so: bool) -> str:
    return "reached" if is_so else "**not reached**"


def _picture(measurements: Sequence[Measurement], shapes: Iterable[Shape], title: str, field: str) -> str:
    groups = []
    for shape in shapes:
        found = [(number, name, of(measurements, name, shape)) for number, name in enumerate((TROTH, *PEERS))]
        bars = [
            _bar(SHORT[name], number, [getattr(run, field) for run in runs]) for number, name, runs in found if runs
        ]
        groups.append(Group(str(shape), tuple(bars)))
    return bar_chart(title, "tx/s", groups)


def _bar(label: str, series: int, values: Sequence[float]) -> Bar:
    median = statistics.median(values)
    return Bar(label, series, median, min(values), max(values), f"{median:,.0f}")


def _broken(name: str) -> str:
    """Short enough for the picture."""
    far = f", a link of {ROUND_TRIP_MS:g} ms"
    return name.replace(" (WAL, synchronous=FULL)", "").replace(far, f", {ROUND_TRIP_MS:g} ms away")


def _table(lines: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _conditions(facts: Mapping[str, str]) -> str:
    return "\n".join(f"- {name}: {fact}" for name, fact in facts.items())
