"""The public names of the package are all there, and cost nothing until they are used."""

import subprocess
import sys

import pytest

import troth


@pytest.mark.parametrize("name", troth.__all__)
def test_each_public_name_resolves(name: str) -> None:
    assert getattr(troth, name) is not None
    assert name in dir(troth)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        troth.nonsense  # noqa: B018


def test_importing_the_package_imports_nothing_else() -> None:
    program = (
        "import sys, troth; print([m for m in sys.modules if m.startswith('troth.') or m in ('asyncio', 'msgspec')])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
