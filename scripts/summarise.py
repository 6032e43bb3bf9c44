"""Prints what has failed, and the last line of `make test`, `N passed, N failed`, from JUnit reports.

    python scripts/summarise.py OTHER_FAILURES REPORT…

OTHER_FAILURES counts what the reports do not know: a linter, a type checker, a run without a report.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree


def is_complete(report: Path) -> bool:
    """False where a run of pytest has died before it wrote its report."""
    try:
        ElementTree.parse(report)
    except (OSError, ElementTree.ParseError):
        return False
    return True


def main(reports: Sequence[str], other_failures: int) -> None:
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for report in reports:
        root = ElementTree.parse(report).getroot()
        for suite in root.iter("testsuite"):
            for name in counts:
                counts[name] += int(suite.get(name, "0"))
        for case in root.iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                print(f"FAILED {case.get('classname')}::{case.get('name')}")
    broken = counts["failures"] + counts["errors"]
    passed = counts["tests"] - broken - counts["skipped"]
    skipped = f", {counts['skipped']} skipped" if counts["skipped"] else ""
    print(f"{max(passed, 0)} passed, {broken + other_failures} failed{skipped}")


if __name__ == "__main__":
    main(sys.argv[2:], int(sys.argv[1]))
