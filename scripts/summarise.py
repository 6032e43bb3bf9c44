"""Prints the last line of `make test`, `N passed, N failed`, from a JUnit report.

    python scripts/summarise.py REPORT STATIC_FAILED

STATIC_FAILED is 1 when a linter or type checker has failed: that counts as one failure.
"""

from __future__ import annotations

import sys
from xml.etree import ElementTree


def main(report: str, static_failed: str) -> None:
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    try:
        suites = ElementTree.parse(report).getroot().iter("testsuite")
    except ElementTree.ParseError:
        print("the test run wrote no report", file=sys.stderr)
        counts["failures"] = 1
        suites = iter(())
    for suite in suites:
        for name in counts:
            counts[name] += int(suite.get(name, "0"))
    broken = counts["failures"] + counts["errors"]
    passed = counts["tests"] - broken - counts["skipped"]
    skipped = f", {counts['skipped']} skipped" if counts["skipped"] else ""
    print(f"{max(passed, 0)} passed, {broken + int(static_failed)} failed{skipped}")


if __name__ == "__main__":
    main(*sys.argv[1:])
