"""The judges see: whatever is broken in the coordinator, some seed shows it."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from troth.testing.mutation_list import MUTATIONS, Mutation
from troth.testing.mutations import PACKAGE, main, mutated, places, seed_that_sees

KEPT = Path(__file__).with_name("mutations.txt").read_text(encoding="utf-8").splitlines()
SAMPLE = 2
"""So many are drawn of those that show within a few seeds (marked `*` in the file): each takes a few seconds."""


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_list_follows_the_code(mutation: Mutation) -> None:
    assert places(mutation) == 1


def test_no_mutation_leaves_the_list() -> None:
    names = [mutation.name for mutation in MUTATIONS]
    assert len(set(names)) == len(names) >= 30
    assert names == [line.removeprefix("* ") for line in KEPT]


def test_a_mutation_changes_a_copy_only(tmp_path: Path) -> None:
    mutation = MUTATIONS[0]
    mutated(mutation, tmp_path)
    assert mutation.new in (tmp_path / "troth" / mutation.path).read_text(encoding="utf-8")
    assert mutation.new not in (PACKAGE / mutation.path).read_text(encoding="utf-8")


def test_a_name_that_is_not_listed_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["does nothing wrong"])
    assert refused.value.code == 2
    assert "not in the list" in capsys.readouterr().err


def test_a_survivor_fails_the_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    harmless = Mutation("is harmless", "core/rules.py", "from __future__", "from __future__")
    monkeypatch.setattr("troth.testing.mutations.MUTATIONS", (harmless,))
    monkeypatch.setattr("troth.testing.mutations.seed_that_sees", lambda mutation: seed_that_sees(mutation, seeds=2))
    assert main([]) == 1
    assert "SURVIVES" in capsys.readouterr().out


@pytest.mark.engines
def test_a_drawn_sample_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("TROTH_MUTATION_SEED") or random.SystemRandom().randrange(1 << 32))
    quick = [line.removeprefix("* ") for line in KEPT if line.startswith("* ")]
    assert main(["--sample", str(SAMPLE), "--seed", str(seed), *quick]) == 0, capsys.readouterr().out


@pytest.mark.soak
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_simulation_sees(mutation: Mutation) -> None:
    seen = seed_that_sees(mutation)
    assert seen is not None, f"nobody sees that it {mutation.name}"
    print(seen)
