"""From single runs to a table: median and spread of every shape."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HEADINGS = (
    "connections × in flight",
    "tx/s",
    "p50 ms",
    "p99 ms",
    "tx/s, phase two counted",
    "tx per store commit",
    "server CPU µs/tx",
)


@dataclass(frozen=True, slots=True)
class Shape:
    """How the load is spread: `connections`, each with `in_flight` transactions at a time."""

    connections: int
    in_flight: int

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """Read `8x32`. Raises ValueError for anything else."""
        connections, _, in_flight = text.partition("x")
        shape = cls(int(connections), int(in_flight))
        if shape.connections < 1 or shape.in_flight < 1:
            raise ValueError(text)
        return shape

    def __str__(self) -> str:
        return f"{self.connections} × {self.in_flight}"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of the generator. Rates are per second; latencies are milliseconds of a whole transaction."""

    shape: Shape
    transactions: int
    tx_per_s: float
    whole_per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    store_commits: int | None
    tx_per_store_commit: float | None
    server_cpu_us_per_tx: float | None
    server: str = "troth"
    round: int = 1

    def line(self) -> str:
        """One line for someone who watches."""
        shared = "" if self.tx_per_store_commit is None else f", {self.tx_per_store_commit:.1f} tx per store commit"
        cpu = "" if self.server_cpu_us_per_tx is None else f", server CPU {self.server_cpu_us_per_tx:.0f} µs/tx"
        return (
            f"{self.shape!s:>7}: {self.tx_per_s:8.0f} tx/s, p50 {self.p50_ms:.2f} ms, p99 {self.p99_ms:.2f} ms, "
            f"with phase two {self.whole_per_s:.0f} tx/s{shared}{cpu}"
        )

    def as_json(self) -> dict[str, object]:
        """The same with the shape's two numbers in place of the shape."""
        fields = asdict(self)
        return {**fields.pop("shape"), **fields}


def spread(values: Sequence[float], digits: int) -> str:
    """`median (min–max)`."""
    low, middle, high = (f"{v:,.{digits}f}" for v in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low}–{high})"


def rows(measurements: Iterable[Measurement]) -> list[tuple[str, ...]]:
    """One row of text a shape, in the order the shapes first appear."""
    by_shape: dict[Shape, list[Measurement]] = {}
    for measurement in measurements:
        by_shape.setdefault(measurement.shape, []).append(measurement)
    table: list[tuple[str, ...]] = []
    for shape, runs in sorted(by_shape.items(), key=lambda item: (item[0].connections, item[0].in_flight)):
        shared = [run.tx_per_store_commit for run in runs if run.tx_per_store_commit is not None]
        cpu = [run.server_cpu_us_per_tx for run in runs if run.server_cpu_us_per_tx is not None]
        table.append(
            (
                str(shape),
                spread([run.tx_per_s for run in runs], 0),
                spread([run.p50_ms for run in runs], 2),
                spread([run.p99_ms for run in runs], 2),
                spread([run.whole_per_s for run in runs], 0),
                spread(shared, 1) if shared else "–",
                spread(cpu, 0) if cpu else "–",
            )
        )
    return table


def as_text(table: Sequence[tuple[str, ...]]) -> str:
    """The table for a terminal."""
    lines = [HEADINGS, *table]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def as_markdown(table: Sequence[tuple[str, ...]], facts: Mapping[str, str]) -> str:
    """The table and its conditions for the docs."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *table]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return text + "\n\n" + "\n".join(f"- {name}: {fact}" for name, fact in facts.items())


def write_into(path: Path, block: str, name: str = "figures") -> None:
    """Put `block` between the two marks of `path` that carry `name`. Raises ValueError when the marks are not there."""
    first, last = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, begin, rest = path.read_text().partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"{path} has no lines {first} and {last} to write between")
    path.write_text(f"{before}{first}\n{block}\n{last}{after}")
