"""What `make bench` makes of its measurements: ratios of pairs, verdicts, pictures. Nothing is measured here."""

from __future__ import annotations

import shutil
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import page
from figures import Measurement, Shape
from page import BUSY, DB, FILE, FILE_AS_SHIPPED, SHAPES, TROTH
from pairs import paired

ROOT = Path(__file__).parents[2]


def run(server: str, shape: Shape, number: int, tx_per_s: float) -> Measurement:
    own: tuple[int, float, float] | tuple[None, None, None] = (100, 4.0, 200.0) if server == TROTH else (None,) * 3
    return Measurement(shape, 1000, tx_per_s, tx_per_s / 2, 1.0, 8.0, 9.0, *own, server, number)


def rounds(speeds: Mapping[str, tuple[float, ...]]) -> list[Measurement]:
    """Each server's tx/s at 8 x 32, one a round; the last rounds first, as an interleaved run may order them."""
    runs = [run(name, BUSY, n, speed) for name, each in speeds.items() for n, speed in enumerate(each, 1)]
    return runs[::-1]


def test_a_ratio_is_the_median_of_the_pairs_not_the_ratio_of_the_medians() -> None:
    measured = rounds({TROTH: (10, 40, 90), FILE: (10, 10, 45)})
    found = paired(measured, TROTH, FILE, BUSY, "tx_per_s")
    assert (found.median, found.low, found.high, found.pairs) == (2.0, 1.0, 4.0, 3)


def test_what_was_not_measured_in_the_same_rounds_is_not_compared() -> None:
    with pytest.raises(ValueError, match="same rounds"):
        paired(rounds({TROTH: (10, 40), FILE: (10,)}), TROTH, FILE, BUSY, "tx_per_s")


def everything() -> list[Measurement]:
    speeds = {TROTH: 3000.0, FILE: 1000.0, FILE_AS_SHIPPED: 500.0, DB: 40.0}
    return [
        run(name, shape, number, speed * number)
        for name, speed in speeds.items()
        for shape in (SHAPES if name in (TROTH, FILE) else (BUSY,))
        for number in (1, 2, 3)
    ]


def test_the_page_says_of_each_aim_whether_it_is_reached() -> None:
    text = page.beside(everything(), {"Command": "none"}).text
    verdicts = {tuple(cell.strip() for cell in line.split("|")[1:4]): line for line in text.splitlines() if "≥" in line}
    assert "the first is reached" in verdicts["answered, beside the file store", "8 × 32", "≥ 2.5, then ≥ 4"]
    assert "**not reached**" in verdicts["phase two counted, beside the file store", "8 × 32", "≥ 4, then ≥ 8"]
    assert verdicts["answered, beside the DB store", "8 × 32", "≥ 25, then ≥ 40"].endswith("75 (75–75) | reached |")
    assert "- Command: none" in text


def test_tables_and_pictures_are_written_between_their_marks(tmp_path: Path) -> None:
    copy = tmp_path / "benchmarks.md"
    shutil.copy(ROOT / "docs" / "benchmarks.md", copy)
    before = copy.read_text(encoding="utf-8")
    for section in (page.beside(everything(), {"CPU": "one"}), page.alone(everything()[:12], {"CPU": "one"})):
        section.write(copy)
    after = copy.read_text(encoding="utf-8")
    assert after.partition("<!-- seata: begin -->")[0] == before.partition("<!-- seata: begin -->")[0]
    for name in ("answered.svg", "whole.svg"):
        assert f"(benchmarks/{name})" in after
        picture = ET.parse(tmp_path / "benchmarks" / name).getroot()
        bars = [float(bar.get("width", "0")) for bar in picture.iter("{http://www.w3.org/2000/svg}rect")]
        assert len(bars) == 2 * len(SHAPES) + 2
        assert bars[0] == pytest.approx(3 * bars[1], rel=0.01), "troth's and Seata's, to scale"
