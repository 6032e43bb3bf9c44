"""The judges see: whatever is broken in the coordinator, some seed shows it."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutations import MUTATIONS, Mutation, mutated, seed_that_sees


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_list_follows_the_code(mutation: Mutation) -> None:
    text = (Path(__file__).parents[2] / "src" / "troth" / mutation.path).read_text(encoding="utf-8")
    assert text.count(mutation.old) == 1


def test_names_are_unique() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 30


def test_a_mutation_changes_a_copy_only(tmp_path: Path) -> None:
    mutation = MUTATIONS[0]
    mutated(mutation, tmp_path)
    assert mutation.new in (tmp_path / "troth" / mutation.path).read_text(encoding="utf-8")


@pytest.mark.engines
def test_answers_before_the_write_are_seen() -> None:
    assert seed_that_sees(MUTATIONS[0]) is not None


@pytest.mark.soak
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_simulation_sees(mutation: Mutation) -> None:
    seen = seed_that_sees(mutation)
    assert seen is not None, f"nobody sees that it {mutation.name}"
    print(f"seed {seen[0]}: {seen[1]}")
