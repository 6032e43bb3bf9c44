"""In one process a saga's name is one function's: the later of two would be run for what the earlier began."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import troth

TEXT = """
import troth

@troth.saga(name="booked")
def book() -> str:
    return {result!r}
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of an importable module with a saga."""
    file = tmp_path / "booking_for_a_test.py"
    file.write_text(TEXT.format(result="first"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.invalidate_caches()
    yield file
    sys.modules.pop(file.stem, None)


def test_two_sagas_of_one_name_are_refused_with_both_places(saga_client: troth.Client) -> None:
    @troth.saga(name="booked")
    def first() -> str:
        return "first"

    def second() -> None:
        """Never a saga."""

    here = "test_two_sagas_of_one_name_are_refused_with_both_places.<locals>"
    with pytest.raises(ValueError, match="two sagas are named 'booked'") as refused:
        troth.saga(name="booked")(second)
    assert f"{__name__}.{here}.first and {__name__}.{here}.second" in str(refused.value)
    assert first() == "first", "who was first is still served"


def test_a_reloaded_module_takes_its_own_place(module: Path, saga_client: troth.Client) -> None:
    booking = importlib.import_module(module.stem)
    assert booking.book() == "first"
    module.write_text(TEXT.format(result="second"))
    assert importlib.reload(booking).book() == "second"
    module.write_text(TEXT.format(result="third").replace("def book", "def book_otherwise"))
    with pytest.raises(ValueError, match=rf"{module.stem}\.book and {module.stem}\.book_otherwise"):
        importlib.reload(booking)


def test_another_client_has_names_of_its_own(saga_coordinator: Any) -> None:
    def here() -> str:
        return "here"

    def there() -> str:
        return "there"

    with troth.Client(saga_coordinator.address, "elsewhere") as client:
        sagas = [troth.saga(name="apart")(here), troth.saga(name="apart", client=client)(there)]
        assert [saga() for saga in sagas] == ["here", "there"]
        with pytest.raises(ValueError, match="two sagas are named 'apart'"):
            troth.saga(name="apart", client=client)(here)


def test_what_has_no_name_of_its_own_may_be_a_saga(saga_client: troth.Client) -> None:
    def told(what: str, to: str) -> str:
        return f"{what} {to}"

    assert troth.saga(name="partial")(functools.partial(told, to="ann"))("hello") == "hello ann"
